"""Tables of several runs note where their losses do not compare."""

import csv
import json
from pathlib import Path

import pytest

from tests.conftest import RUN
from tests.support.evaluated_runs import make_run

LINE = "losses of different objectives are not comparable: these runs differ in "
SMALL = [word for word in RUN if not word.startswith(("model=", "network."))]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("other", "parts"),
    [
        ({"noise_schedule": {"beta_schedule": "linear"}}, "noise_schedule"),
        ({"prediction": {"_target_": "x"}, "weighting": {"gamma": 5}}, "prediction and weighting"),
        ({"model": {"_target_": "another"}}, "model"),
        ({"data": {"image_size": 32}}, "data.image_size"),
        ({"data": {"path": "cats"}}, "data.path"),
        ({"optimizer": {"lr": 0.1}}, None),
        ({"network": {"width": 8}}, None),
        ({"pairing": None}, None),  # a saved run that knew no such option
    ],
)
def test_note_in_a_comparison(typed, tmp_path, other, parts):
    make_run(tmp_path / "a", [1.0, 2.0])
    make_run(tmp_path / "b", [2.0, 3.0], config={"optimizer": {"eps": 1}} | other)
    code, out, err = typed("compare", "runs=a,b", "metrics=fid")
    assert code == 0, err
    assert ("(not" in out) == (parts is not None)  # in the head of the column, which is narrow
    assert (f"{LINE}{parts}" in out.splitlines()) == (parts is not None)
    record = json.loads((Path(out.strip().splitlines()[-1]) / "comparison.json").read_text())
    assert bool(record["losses_differ_in"]) == (parts is not None)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("swept", "parts"),
    [
        ("noise_schedule=linear,cosine", "noise_schedule"),
        ("model=flow,ddpm", "noise_schedule, prediction"),
        ("optimizer.lr=0.1,0.2", None),
    ],
)
def test_note_in_a_sweep(typed, tmp_path, swept, parts):
    words = [*SMALL, "model=ddpm", "network=unet_fast", "network.width=8", "trainer.max_epochs=1"]
    if swept.startswith("model"):
        words.remove("model=ddpm")
    code, out, err = typed("train", "-m", *words, swept, "hydra.sweep.dir=swept")
    assert code == 0, err
    assert (LINE in out) == (parts is not None)
    assert parts is None or f"{LINE}{parts}" in out
    with (tmp_path / "swept" / "summary.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row.get("objective") for row in rows] == (["1", "2"] if parts else [None, None])
