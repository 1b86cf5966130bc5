"""Averages by power functions: closed forms, and a width that was tracked against its blend."""

import shutil
from pathlib import Path

import lightning as L
import numpy as np
import pytest
import torch
from scipy import integrate

from diffusion_lab import compose_config, load_run, train
from diffusion_lab.callbacks import PostHocEMA
from diffusion_lab.callbacks.post_hoc_ema import _to_half
from diffusion_lab.errors import UserError
from diffusion_lab.optim.power_function_ema import (
    MAX_WIDTH,
    blend_weights,
    decay_of,
    gamma_of,
    overlaps,
    width_of,
)
from tests.cli.test_bad_input import assert_refused
from tests.conftest import TINY

FLOW = (*TINY[:-2], "logger=csv", "model=flow", "network=unet_fast", "network.width=8")
STEPS, EVERY = 40, 4


class Follow(L.Callback):
    """The weights after every step, and what the PostHocEMA then has."""

    def __init__(self):
        self.weights, self.averages = [], []

    def on_train_batch_end(self, trainer, pl_module, *args):
        self.weights.append({n: p.detach().clone() for n, p in pl_module.named_parameters()})
        (ema,) = (c for c in trainer.callbacks if isinstance(c, PostHocEMA))
        self.averages.append(
            {w: {n: v.clone() for n, v in a.items()} for w, a in ema.averages.items()}
        )


@pytest.fixture(scope="module")
def followed(tmp_path_factory):
    """Forty steps that track widths 0.05, 0.1 and, to compare with, 0.07; and the snapshots."""
    folder, follow = tmp_path_factory.mktemp("posthoc"), Follow()
    words = [*FLOW, "callbacks=post_hoc_ema", "callbacks.samples=null", "callbacks.figures=null"]
    words += [f"callbacks.post_hoc_ema.every_n_steps={EVERY}", "trainer.max_epochs=8"]
    words += ["trainer.limit_train_batches=5", "optimizer.lr=0.01"]
    words += ["callbacks.post_hoc_ema.widths=[0.05,0.07,0.1]"]
    begin = PostHocEMA.on_fit_start

    def on_fit_start(self, trainer, pl_module):
        trainer.callbacks.insert(-3, follow)
        begin(self, trainer, pl_module)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PostHocEMA, "on_fit_start", on_fit_start)
        train(compose_config(words, folder))
    tracked = [average[0.07] for average in follow.averages]
    for path in sorted((folder / "checkpoints/posthoc").iterdir()):  # 0.07 must be blended
        snapshot = torch.load(path, weights_only=True)
        del snapshot["averages"][0.07]
        torch.save(snapshot, path)
    return folder, follow, tracked


def vector(tensors):
    return torch.cat([value.double().flatten() for value in tensors.values()])


@pytest.mark.parametrize("gamma", [0.0, 0.3, 1.0, 6.94, 16.97, 300.0])
def test_width_and_exponent_are_inverse(gamma):
    width = width_of(gamma)
    assert gamma_of(width) == pytest.approx(gamma, abs=1e-6, rel=1e-9)
    # the definition: the standard deviation of the profile on [0, 1]

    def moment(n):
        return integrate.quad(lambda s: (gamma + 1) * s**gamma * s**n, 0, 1, epsabs=1e-13)[0]

    assert width == pytest.approx((moment(2) - moment(1) ** 2) ** 0.5, rel=1e-6)


def test_the_papers_exponents():
    assert gamma_of(0.05) == pytest.approx(16.97, abs=0.01)
    assert gamma_of(0.10) == pytest.approx(6.94, abs=0.01)
    assert gamma_of(MAX_WIDTH) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("width", [0.05, 0.1, 0.25])
@pytest.mark.parametrize("power", [0, 1, 2])
def test_the_average_of_a_known_path(width, power):
    """(gamma + 1) / (gamma + 1 + k) t^k for weights tau^k, up to the width of a step."""
    gamma, steps, average = gamma_of(width), 2000, 0.0
    for step in range(1, steps + 1):
        decay = decay_of(gamma, step)
        average = decay * average + (1 - decay) * ((step - 0.5) / steps) ** power
    assert average == pytest.approx((gamma + 1) / (gamma + 1 + power), rel=1e-5)


def test_overlaps_are_the_integrals():
    profiles = [(40.0, 0.05), (100.0, 0.1), (100.0, 0.25)]

    def density(profile, tau):
        t, gamma = profile[0], gamma_of(profile[1])
        return (gamma + 1) * tau**gamma / t ** (gamma + 1) if tau <= t else 0.0

    found = overlaps(profiles, profiles)
    for i, a in enumerate(profiles):
        for j, b in enumerate(profiles):
            upper = min(a[0], b[0])
            exact, _ = integrate.quad(
                lambda tau, a=a, b=b: density(a, tau) * density(b, tau), 0, upper
            )
            assert found[i, j] == pytest.approx(exact, rel=1e-7)


@pytest.mark.parametrize("width", [0.03, 0.05, 0.07, 0.15, 0.25])
def test_blends_sum_to_one_and_fit(width):
    stored = [(float(t), w) for t in range(50, 1001, 50) for w in (0.05, 0.1)]
    weights, misfit = blend_weights(stored, (1000.0, width))
    assert weights.sum() == pytest.approx(1, abs=1e-12)
    assert misfit < {0.03: 0.03, 0.07: 0.003, 0.15: 0.006, 0.25: 0.1}.get(width, 1e-6)
    if width == 0.05:  # it was stored: nothing else is used
        assert weights[-2] == pytest.approx(1, abs=1e-6)
    # the misfit by its definition, on a grid
    tau = np.linspace(0, 1000, 200_001)[1:]

    def density(t, w):
        gamma = gamma_of(w)
        return np.where(tau <= t, (gamma + 1) * (tau / t) ** gamma / t, 0.0)

    wanted = density(1000, width)
    off = sum(x * density(t, w) for x, (t, w) in zip(weights, stored, strict=True)) - wanted
    by_hand = np.sqrt((off**2).sum() / (wanted**2).sum())
    assert misfit == pytest.approx(by_hand, rel=0.02, abs=1e-5)


@pytest.mark.slow
def test_training_tracks_the_closed_form(followed):
    """Step k weighs (k^(gamma+1) - (k-1)^(gamma+1)) / n^(gamma+1)."""
    _, follow, _ = followed
    assert len(follow.weights) == STEPS
    path = torch.stack([vector(weights) for weights in follow.weights])
    for n in (1, 7, STEPS):
        for width, average in follow.averages[n - 1].items():
            edges = (torch.arange(n + 1, dtype=torch.float64) / n) ** (gamma_of(width) + 1)
            torch.testing.assert_close(
                vector(average), edges.diff() @ path[:n], rtol=1e-4, atol=1e-6
            )


@pytest.mark.slow
@pytest.mark.parametrize("step", [40, 20])
def test_a_width_that_was_tracked_is_had_from_two_others(followed, step):
    """Within a hundredth of how far the weights moved, and ten times nearer than its neighbours."""
    folder, follow, tracked = followed
    expected = vector(tracked[step - 1])
    run = load_run(folder, weights="posthoc:0.07" if step == 40 else "posthoc:0.07@20")
    blended = vector(dict(run.module.named_parameters()))
    error = (blended - expected).norm()
    assert error < 0.01 * (vector(follow.weights[step - 1]) - vector(follow.weights[0])).norm()
    for neighbour in (0.05, 0.1):
        assert error < 0.1 * (vector(follow.averages[step - 1][neighbour]) - expected).norm()


def test_snapshots_are_cheap_and_plain(followed):
    folder, follow, _ = followed
    files = sorted((folder / "checkpoints/posthoc").iterdir())
    assert [int(f.stem[5:]) for f in files] == list(range(EVERY, STEPS + 1, EVERY))
    snapshot = torch.load(files[-1], weights_only=True)
    assert snapshot["step"] == STEPS
    for width in (0.05, 0.1):
        for name, value in snapshot["averages"][width].items():
            assert value.dtype == torch.float16
            assert torch.equal(value, follow.averages[-1][width][name].half())


def test_the_checkpoint_says_until_when(followed, tmp_path):
    """checkpoint=best is an earlier step: the blend ends there."""
    folder, *_ = followed
    best = torch.load(folder / "checkpoints/best.ckpt", weights_only=True)
    step = best["global_step"] // EVERY * EVERY
    for a, b in zip(
        load_run(folder, "best", weights="posthoc:0.2").module.parameters(),
        load_run(folder, weights=f"posthoc:0.2@{step}").module.parameters(),
        strict=True,
    ):
        assert torch.equal(a, b)


def test_it_goes_on_from_a_checkpoint(followed, tmp_path):
    folder, follow, _ = followed
    state = torch.load(folder / "checkpoints/last.ckpt", weights_only=True)
    state = state["callbacks"]["PostHocEMA"]
    ema = PostHocEMA((0.05, 0.1))
    ema.load_state_dict(state)
    (tmp_path / "checkpoints/posthoc").mkdir(parents=True)
    for step in (40, 44):
        (tmp_path / f"checkpoints/posthoc/step_{step:08d}.pt").touch()
    trainer = L.Trainer(logger=False, default_root_dir=tmp_path, accelerator="cpu")
    ema.on_fit_start(trainer, load_run(folder).module)
    assert ema.steps == STEPS
    for name, value in follow.averages[-1][0.05].items():
        assert torch.equal(ema.averages[0.05][name], value)
    left = [p.name for p in (tmp_path / "checkpoints/posthoc").iterdir()]
    assert left == ["step_00000040.pt"]  # a later one belongs to what is trained anew


def test_what_float16_cannot_hold_stays_as_it_is():
    assert _to_half(torch.tensor([1.0])).dtype == torch.float16
    assert torch.equal(_to_half(torch.tensor([1e6])), torch.tensor([1e6]))


def test_sampling_by_a_width(followed, typed):
    folder, *_ = followed
    code, out, err = typed("sample", f"run={folder}", "weights=posthoc:0.10", "num_samples=2")
    assert code == 0, err
    drawn = Path(out.strip().splitlines()[-1], "samples.json")
    assert '"weights": "posthoc:0.10"' in drawn.read_text()


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        ("posthoc:0.5", ["0.5 is not a valid width", "0.2887"]),
        ("posthoc:0", ["0 is not a valid width"]),
        ("posthoc:wide", ["expected posthoc:<width>", "posthoc:0.1"]),
        ("posthoc:0.1.2", ["expected posthoc:<width>"]),
        ("posthoc:0.1@39", ["no snapshot of step 39", "36, 40"]),
        ("raw:0.1", ["ema or raw"]),
    ],
)
def test_widths_that_cannot_be_had(followed, typed, weights, words):
    assert_refused(typed("sample", f"run={followed[0]}", f"weights={weights}"), *words)


def test_a_run_without_snapshots_says_how_to_get_them(trained):
    with pytest.raises(UserError, match="train with callbacks=post_hoc_ema"):
        load_run(trained["ddpm"], weights="posthoc:0.1")


def test_a_width_that_does_not_fit_is_warned_of(followed, caplog):
    load_run(followed[0], weights="posthoc:0.01")
    assert "approximate width 0.01 only to within" in caplog.text


def test_a_damaged_snapshot_is_named(followed, tmp_path):
    folder = shutil.copytree(followed[0], tmp_path / "run")
    path = folder / "checkpoints/posthoc/step_00000008.pt"
    path.write_bytes(b"no snapshot")
    with pytest.raises(UserError, match=r"step_00000008\.pt is damaged"):
        load_run(folder, weights="posthoc:0.1")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("widths=[0.05]", ["at least two"]),
        ("widths=[0.1,0.1]", ["at least two different"]),
        ("widths=[0.05,0.4]", ["0.4 is not a valid width", "0.2887"]),
        ("widths=[-0.1,0.1]", ["-0.1 is not a valid width"]),
        ("every_n_steps=0", ["every_n_steps=0", "at least 1"]),
    ],
)
def test_bad_settings_are_refused(typed, setting, words):
    settings = ["callbacks=post_hoc_ema", f"callbacks.post_hoc_ema.{setting}"]
    assert_refused(typed("train", *TINY, *settings), *words)
