import itertools
import logging

import pytest
import torch

from diffusion_lab.data.loader import InMemoryLoader
from diffusion_lab.errors import UserError

N = 23
IMAGES = torch.arange(N * 4).view(N, 1, 2, 2).to(torch.uint8)
LABELS = torch.arange(N)


def loader(**settings) -> InMemoryLoader:
    return InMemoryLoader(IMAGES, LABELS, **{"batch_size": 5, "shuffle": True} | settings)


def flat(lists) -> list:
    return list(itertools.chain.from_iterable(lists))


def epoch_of(batches) -> list[list[int]]:
    return [labels.tolist() for _, labels in batches]


def test_a_batch_holds_the_images_of_its_labels():
    train = loader()
    for images, labels in train:
        assert images.dtype == torch.uint8
        assert torch.equal(images, IMAGES[labels])
        assert torch.equal(train.last_indices, labels)


def test_a_batch_holds_the_noise_of_its_images():
    noise = torch.randn(N, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    for images, labels, own in loader(noise=noise):
        assert torch.equal(own, noise[labels]) and torch.equal(images, IMAGES[labels])


def test_an_epoch_is_a_permutation():
    batches = epoch_of(loader())
    assert [len(batch) for batch in batches] == [5, 5, 5, 5, 3]
    assert sorted(flat(batches)) == list(range(N))
    assert len(loader()) == 5


def test_drop_last():
    train = loader(drop_last=True)
    assert len(train) == 4
    assert [len(batch) for batch in epoch_of(train)] == [5] * 4


def test_without_shuffle_the_order_is_unchanged():
    val = loader(shuffle=False)
    assert flat(epoch_of(val)) == list(range(N))
    assert flat(epoch_of(val)) == list(range(N))


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


def test_an_interrupted_iteration_is_resumed():
    train, other = loader(), loader()
    seen = [next(iter(train))[1].tolist(), next(iter(train))[1].tolist()]
    assert seen + epoch_of(train) == (epoch_of(other) + epoch_of(other))[:7]


def test_without_shuffle_an_interrupted_iteration_starts_again():
    val = loader(shuffle=False)
    next(iter(val))
    assert epoch_of(val) == epoch_of(loader(shuffle=False))


def test_unused_iterators_change_nothing():
    train = loader()
    iter(train)
    iter(train)
    assert epoch_of(train) == epoch_of(loader())


@pytest.mark.parametrize("done", [0, 1, 3, 5])
def test_state_dict_resumes_the_stream(done):
    straight, broken, resumed = loader(), loader(), loader()
    stream = flat(epoch_of(straight) for _ in range(4))
    epoch_of(broken)
    batches = iter(broken)
    seen = stream[:5] + [next(batches)[1].tolist() for _ in range(done)]
    iter(resumed)
    resumed.load_state_dict(broken.state_dict())
    assert len(resumed) == 5
    seen += epoch_of(resumed) + epoch_of(resumed)
    assert seen == stream[: len(seen)]


def test_a_state_of_different_batches_gives_a_warning(caplog):
    saved = loader()
    next(iter(saved))
    with caplog.at_level(logging.WARNING):
        loader(batch_size=4).load_state_dict(saved.state_dict())
    (warning,) = caplog.records
    assert "batch_size 5 -> 4" in warning.message


@pytest.mark.parametrize("world_size", [2, 3, 4, 30])
@pytest.mark.parametrize("shuffle", [True, False])
def test_processes_share_the_images(world_size, shuffle):
    shards = [
        loader(batch_size=2, rank=rank, world_size=world_size, shuffle=shuffle)
        for rank in range(world_size)
    ]
    for _ in range(2):
        batches = [epoch_of(shard) for shard in shards]
        assert {len(epoch) for epoch in batches} == {len(shards[0])}
        assert len({tuple(map(len, epoch)) for epoch in batches}) == 1, "batches of equal size"
        seen = flat(flat(epoch) for epoch in batches)
        assert set(seen) == set(range(N))
        assert len(seen) - N < world_size, "disjoint up to padding"


def test_shares_with_drop_last_are_disjoint():
    shards = [loader(batch_size=2, rank=r, world_size=4, drop_last=True) for r in range(4)]
    seen = flat(flat(epoch_of(shard)) for shard in shards)
    assert len(seen) == len(set(seen)) == 4 * 2 * (N // 8)


def test_batches_of_all_processes_form_those_of_one_process():
    whole = epoch_of(loader(batch_size=6))
    left, right = (epoch_of(loader(batch_size=3, rank=rank, world_size=2)) for rank in range(2))
    for batch, first, second in zip(whole[:-1], left, right, strict=False):
        assert sorted(batch) == sorted(first + second)


@pytest.mark.parametrize(
    "setting", [{"batch_size": 0}, {"batch_size": -1}, {"batch_size": 2.5}, {"batch_size": True},
                {"batch_size": "8"}, {"seed": -1}]
)  # fmt: skip
def test_invalid_settings_are_rejected(setting):
    with pytest.raises(UserError, match="expected a whole number") as raised:
        loader(**setting)
    assert "\n" not in str(raised.value)
