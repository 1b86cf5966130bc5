import logging

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint

from diffusion_lab.data.loader import InMemoryLoader
from diffusion_lab.errors import UserError

N = 23
IMAGES = torch.arange(N * 4).view(N, 1, 2, 2).to(torch.uint8)
LABELS = torch.arange(N)


def loader(**settings) -> InMemoryLoader:
    return InMemoryLoader(IMAGES, LABELS, **{"batch_size": 5, "shuffle": True} | settings)


def epoch_of(batches) -> list[list[int]]:
    return [labels.tolist() for _, labels in batches]


def test_a_batch_holds_the_images_of_its_labels():
    train = loader()
    for images, labels in train:
        assert images.dtype == torch.uint8
        assert torch.equal(images, IMAGES[labels])
        assert torch.equal(train.last_indices, labels)


def test_an_epoch_is_a_permutation():
    batches = epoch_of(loader())
    assert [len(batch) for batch in batches] == [5, 5, 5, 5, 3]
    assert sorted(sum(batches, [])) == list(range(N))
    assert len(loader()) == 5


def test_drop_last():
    train = loader(drop_last=True)
    assert len(train) == 4
    assert [len(batch) for batch in epoch_of(train)] == [5] * 4


def test_without_shuffle_the_order_is_that_of_the_tensors():
    val = loader(shuffle=False)
    assert sum(epoch_of(val), []) == list(range(N))
    assert sum(epoch_of(val), []) == list(range(N))


def test_the_order_depends_on_seed_and_epoch_alone():
    torch.manual_seed(1)
    first, second = loader(), loader()
    epochs = [epoch_of(first) for _ in range(3)]
    torch.manual_seed(2)
    state = torch.get_rng_state()
    assert [epoch_of(second) for _ in range(3)] == epochs
    assert torch.equal(torch.get_rng_state(), state)
    assert epochs[0] != epochs[1] != epochs[2]
    assert epoch_of(loader(seed=1)) != epochs[0]
    assert epoch_of(loader(seed=1)) != epochs[1]


def test_set_epoch():
    train = loader()
    epochs = [epoch_of(train) for _ in range(3)]
    train.set_epoch(1)
    assert epoch_of(train) == epochs[1]
    train.set_epoch(1)
    assert epoch_of(train) == epochs[1]
    assert epoch_of(train) == epochs[2]


def test_an_iteration_that_was_broken_off_counts_as_an_epoch():
    train, other = loader(), loader()
    next(iter(train))
    epoch_of(other)
    assert epoch_of(train) == epoch_of(other)


def test_iterators_that_are_never_used_change_nothing():
    train = loader()
    iter(train)
    iter(train)
    assert epoch_of(train) == epoch_of(loader())


@pytest.mark.parametrize("done", [1, 3, 5])
def test_state(done):
    straight, broken, resumed = loader(), loader(), loader()
    epochs = [epoch_of(straight) for _ in range(3)]
    epoch_of(broken)
    batches = iter(broken)
    seen = [next(batches)[1].tolist() for _ in range(done)]
    resumed.load_state_dict(broken.state_dict())
    assert len(resumed) == 5
    rest = epoch_of(resumed)
    if done < 5:
        assert seen + rest == epochs[1]
        rest = epoch_of(resumed)
    assert rest == epochs[2]


def test_state_of_other_batches_is_taken_with_a_warning(caplog):
    saved = loader()
    next(iter(saved))
    with caplog.at_level(logging.WARNING):
        loader(batch_size=4).load_state_dict(saved.state_dict())
    (warning,) = caplog.records
    assert "batch_size 5 -> 4" in warning.message


@pytest.mark.parametrize("world_size", [2, 3, 4, 30])
@pytest.mark.parametrize("shuffle", [True, False])
def test_shards(world_size, shuffle):
    shards = [
        loader(batch_size=2, rank=rank, world_size=world_size, shuffle=shuffle)
        for rank in range(world_size)
    ]
    for _ in range(2):
        batches = [epoch_of(shard) for shard in shards]
        assert {len(epoch) for epoch in batches} == {len(shards[0])}
        assert len({tuple(map(len, epoch)) for epoch in batches}) == 1, "batches of equal size"
        seen = sum((sum(epoch, []) for epoch in batches), [])
        assert set(seen) == set(range(N))
        assert len(seen) - N < world_size, "disjoint up to padding"


def test_shards_without_the_last_are_disjoint():
    shards = [loader(batch_size=2, rank=r, world_size=4, drop_last=True) for r in range(4)]
    seen = sum((sum(epoch_of(shard), []) for shard in shards), [])
    assert len(seen) == len(set(seen)) == 4 * 2 * (N // 8)


def test_shards_together_are_the_batches_of_one_process():
    whole = epoch_of(loader(batch_size=6))
    left, right = (epoch_of(loader(batch_size=3, rank=rank, world_size=2)) for rank in range(2))
    for batch, first, second in zip(whole[:-1], left, right, strict=False):
        assert sorted(batch) == sorted(first + second)


@pytest.mark.parametrize(
    "setting", [{"batch_size": 0}, {"batch_size": -1}, {"batch_size": 2.5}, {"batch_size": True},
                {"batch_size": "8"}, {"seed": -1}]
)  # fmt: skip
def test_settings_out_of_range(setting):
    with pytest.raises(UserError, match="expected a whole number") as raised:
        loader(**setting)
    assert "\n" not in str(raised.value)


class Recorder(L.LightningModule):
    """Learns nothing and remembers what it was given."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen: list[tuple[int, list[int]]] = []

    def training_step(self, batch, batch_idx):
        self.seen.append((batch_idx, batch[1].tolist()))
        return self.weight * 0

    def validation_step(self, batch, batch_idx):
        self.log("val/loss", self.weight.detach())

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class SaveAt(Callback):
    def __init__(self, step, path):
        self.step, self.path = step, path

    def on_train_batch_end(self, trainer, *args):
        if trainer.global_step == self.step:
            trainer.save_checkpoint(self.path)


def fit(tmp_path, ckpt_path=None, callbacks=(), train=None, validate=False, **settings):
    module = Recorder()
    trainer = L.Trainer(
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=any(isinstance(c, ModelCheckpoint) for c in callbacks),
        default_root_dir=tmp_path,
        callbacks=list(callbacks),
        num_sanity_val_steps=1,
        **{"max_epochs": 4} | settings,
    )
    train = loader() if train is None else train
    val = loader(shuffle=False) if validate else None
    trainer.fit(module, train, val, ckpt_path=ckpt_path)
    return module.seen, trainer


def test_lightning_shuffles_every_epoch_anew(tmp_path):
    seen, _ = fit(tmp_path)
    straight = loader()
    assert [batch for _, batch in seen] == sum((epoch_of(straight) for _ in range(4)), [])


@pytest.mark.parametrize("step", [1, 5, 7, 9, 10])
@pytest.mark.parametrize("validate", [False, True])
def test_stopped_at_a_step_and_resumed(tmp_path, step, validate):
    """Five batches an epoch: stops in the middle of an epoch, before its last batch, and after."""
    straight, _ = fit(tmp_path, validate=validate)
    first, trainer = fit(tmp_path, max_steps=step, validate=validate)
    trainer.save_checkpoint(tmp_path / "stopped.ckpt")
    second, trainer = fit(tmp_path, tmp_path / "stopped.ckpt", validate=validate)
    assert first + second == straight
    assert trainer.global_step == 20


@pytest.mark.parametrize("step", [3, 5, 8, 10])
def test_saved_inside_a_step(tmp_path, step):
    """A checkpoint written by a callback at the end of a batch, as ModelCheckpoint does."""
    straight, _ = fit(tmp_path, callbacks=[SaveAt(step, tmp_path / "step.ckpt")])
    resumed, trainer = fit(tmp_path, tmp_path / "step.ckpt")
    assert resumed == straight[step:]
    assert trainer.global_step == 20


@pytest.mark.parametrize("limit", [1.0, 3])
@pytest.mark.parametrize("on_train_end", [True, False])
def test_saved_at_the_end_of_an_epoch(tmp_path, limit, on_train_end):
    """Also where epochs are cut short: the next one begins anew, not where the last one stopped."""
    settings = {"limit_train_batches": limit, "validate": True}
    straight, _ = fit(tmp_path, **settings)
    keep = ModelCheckpoint(
        tmp_path,
        filename="kept",
        enable_version_counter=False,
        save_on_train_epoch_end=on_train_end,
    )
    first, _ = fit(tmp_path, callbacks=[keep], **settings | {"max_epochs": 2})
    second, _ = fit(tmp_path, tmp_path / "kept.ckpt", **settings)
    assert first + second == straight


def test_accumulating_gradients_does_not_move_the_position(tmp_path):
    settings = {"accumulate_grad_batches": 2}
    straight, _ = fit(tmp_path, **settings)
    first, trainer = fit(tmp_path, max_steps=4, **settings)
    trainer.save_checkpoint(tmp_path / "stopped.ckpt")
    second, _ = fit(tmp_path, tmp_path / "stopped.ckpt", **settings)
    assert first + second == straight
