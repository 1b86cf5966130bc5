"""FID against training time, from run folders with known values."""

import statistics

import pytest
from PIL import Image

from diffusion_lab.tools.race import race
from tests.support import forked
from tests.support.evaluated_runs import make_run

MORE = {"recall": 0.5, "coverage": 0.25, "confidence": 0.9}


def runs_in(folder, name, fids_of_seeds, experiment=None, **evaluation):
    for seed, fids in enumerate(fids_of_seeds):
        scores = [{"seed": i, "fid": fid} | MORE for i, fid in enumerate(fids)]
        config = {"optimizer": {"lr": len(name)}}  # what tells recipes apart
        choices = {"experiment": experiment} if experiment else {}
        run = folder / f"{name}{seed}"
        make_run(run, fids, seed, config, choices, scores=scores, **evaluation)
    return [str(folder / f"{name}{seed}") for seed in range(len(fids_of_seeds))]


def test_rows_have_means_and_ratios_to_the_first(tmp_path):
    slow = runs_in(tmp_path, "slow", [[12.0, 14.0]])
    quick = runs_in(tmp_path, "quicker", [[0.9, 1.1], [1.2], [0.8]], "quick", num_calls=10.0)
    out = tmp_path / "race.png"
    ended = forked.run("race", str(out), *slow, *quick)
    assert ended.returncode == 0, ended.stderr
    *table, path = ended.stdout.strip().splitlines()
    assert path == str(out) and Image.open(out).width > 800
    first, second = ([cell.strip() for cell in row.split("|")[1:-1]] for row in table[2:])
    # one training: over its sampling seeds; several: over them
    assert first[:6] == ["flow", "1", "120", "40", "13 ± 1.4", "1/1"]
    spread = f"1 ± {statistics.stdev([1.0, 1.2, 0.8]):.2g}"
    assert second[:6] == ["quick", "3", "120", "10", spread, "1/13"]
    assert second[6:] == ["0.5 ± 0", "0.25 ± 0", "0.9 ± 0"]


def test_different_numbers_of_images_are_rejected(tmp_path):
    named = runs_in(tmp_path, "a", [[2.0]]) + runs_in(tmp_path, "bb", [[1.0]], num_samples=100)
    with pytest.raises(Exception, match=r"num_samples \(100 and 2000\)"):
        race(named)


def test_trainings_of_a_recipe_are_one_row_whatever_their_callbacks(tmp_path):
    """Settings that one run lacks and the other has as null make no difference."""
    fids = {"seed": 0, "fid": 1.0} | MORE
    watched = {"callbacks": {"samples": {"share": 0.1}, "ema": {"decay": 0.9}}}
    for seed, config in enumerate((watched | {"model": {"clipped_to": None}}, watched, {})):
        make_run(tmp_path / str(seed), [1.0], seed, config, scores=[fids])
    config = {"callbacks": {"ema": {"decay": 0.9}}}
    make_run(tmp_path / "3", [1.0], 3, config, scores=[fids])
    groups = race([str(tmp_path / str(seed)) for seed in range(4)]).groups
    assert [len(group.runs) for group in groups] == [3, 1]  # the average does shape the images
    assert groups[1].settings == {"callbacks.ema.decay": "null"}
