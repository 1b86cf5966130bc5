"""Which runs are one row of a comparison, and what a damaged file costs it."""

import json

import pytest

from tests.commands.compare.test_compare import compared
from tests.support.evaluated_runs import BLEND, HEUN, make_run


@pytest.mark.parametrize(
    ("setting", "values"),
    [
        ("weights", ["ema", "raw"]),
        ("checkpoint", ["last", "best"]),
        ("precision", ["32-true", "bf16-mixed"]),
        ("guidance_interval", [[0.3, 5], [1, 5]]),
        ("autoguidance", ["epoch_004", "epoch_009"]),
        ("sampler", [BLEND | {"eta": 0.0}, BLEND | {"eta": 1.0}]),
        ("sampler", [BLEND, HEUN]),
    ],
)
def test_how_the_images_were_drawn_sets_rows_apart_too(typed, tmp_path, setting, values):
    for seed, value in enumerate(values):
        make_run(tmp_path / str(seed), [5.0, 6.0], seed, **{setting: value})
    rows, _, _ = compared(typed, "runs=0,1", metrics="fid")
    names = sorted(group for group, _ in rows)
    assert len(names) == 2
    assert all(name.startswith(f"evaluation.{setting}") for name in names)


def test_what_was_trained_on_sets_rows_apart_too(typed, tmp_path):
    """data.source=auto is the full set in one place and the bundled digits in another."""
    for seed, data in enumerate(("aa", "bb")):
        folder = make_run(tmp_path / str(seed), [5.0, 6.0], seed)
        record = json.loads((folder / "metrics.json").read_text())
        (folder / "metrics.json").write_text(json.dumps(record | {"data": {"sha256": data}}))
    rows, _, _ = compared(typed, "runs=0,1", metrics="fid")
    assert {group for group, _ in rows} == {"data.sha256=aa", "data.sha256=bb"}


def test_a_damaged_checkpoint_costs_some_dots_of_the_loss_curve(typed, tmp_path):
    for seed in (0, 1):
        folder = make_run(tmp_path / str(seed), [5.0, 6.0], seed) / "checkpoints"
        folder.mkdir()
        (folder / "last.ckpt").write_bytes(b"half of it")
    _, out, _ = compared(typed, "runs=0,1", metrics="fid")
    assert {path.name for path in out.iterdir()} >= {"comparison.csv", "losses.png"}
