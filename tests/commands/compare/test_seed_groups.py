"""The grouping of runs into rows of a comparison, and damaged files."""

import json

import pytest

from tests.commands.compare.test_compare import compared
from tests.support.evaluated_runs import BLEND, HEUN, make_run


@pytest.mark.slow
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
def test_different_sampling_settings_make_different_rows(typed, tmp_path, setting, values):
    for seed, value in enumerate(values):
        make_run(tmp_path / str(seed), [5.0, 6.0], seed, **{setting: value})
    rows, _, _ = compared(typed, "runs=0,1", metrics="fid")
    names = sorted(group for group, _ in rows)
    assert len(names) == 2
    assert all(name.startswith(f"evaluation.{setting}") for name in names)


def test_different_training_data_make_different_rows(typed, tmp_path):
    """data.source=auto is the full data set on one machine and the bundled digits on another."""
    for seed, data in enumerate(("aa", "bb")):
        folder = make_run(tmp_path / str(seed), [5.0, 6.0], seed)
        record = json.loads((folder / "metrics.json").read_text())
        (folder / "metrics.json").write_text(json.dumps(record | {"data": {"sha256": data}}))
    rows, _, _ = compared(typed, "runs=0,1", metrics="fid")
    assert {group for group, _ in rows} == {"data.sha256=aa", "data.sha256=bb"}


def test_a_damaged_checkpoint_only_removes_dots_of_the_loss_curve(typed, tmp_path):
    for seed in (0, 1):
        folder = make_run(tmp_path / str(seed), [5.0, 6.0], seed) / "checkpoints"
        folder.mkdir()
        (folder / "last.ckpt").write_bytes(b"half of it")
    _, out, _ = compared(typed, "runs=0,1", metrics="fid")
    assert {path.name for path in out.iterdir()} >= {"comparison.csv", "losses.png"}
