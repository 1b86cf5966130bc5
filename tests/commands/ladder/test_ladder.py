"""scripts/ladder.py: one change for each rung, one budget for all, no training twice."""

import csv
import json
import shutil
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image
from scipy import stats

from diffusion_lab import compose_config
from diffusion_lab.commands.ladder.rungs import differences, read_rungs
from diffusion_lab.config.search_path import CONFIG_DIR
from tests.conftest import last_line

NAMES = ("toy", "time", "Gaussian", "flow", "schedule", "sampler", "epsilon")


def rungs():
    plan = OmegaConf.to_container(OmegaConf.load(Path(CONFIG_DIR) / "ladder" / "toy_to_ddpm.yaml"))
    return read_rungs(plan)


@pytest.mark.slow
def test_every_rung_differs_from_the_one_before_in_its_declared_change():
    configs = [compose_config(rung.words) for rung in rungs()]
    assert [rung.name for rung in rungs()] == list(NAMES)
    changed = [
        {key: new for key, (_, new) in differences(a, b).items()} for a, b in pairwise(configs)
    ]
    samplers = {"scheduler", "timestep_spacing", "clip_sample", "_target_"}
    targets = "diffusion_lab.diffusion"
    assert changed[0] == {"network.use_time": True}
    assert changed[1] == {"noise_schedule.noise": "gaussian", "data.value_range": "minus_one_one"}
    assert changed[2] == {"prediction._target_": f"{targets}.Flow"}
    assert {key.partition(".")[0] for key in changed[3]} == {"noise_schedule"}
    assert changed[3]["noise_schedule.beta_schedule"] == "linear"
    assert changed[4].keys() == {f"sampler.{key}" for key in samplers}
    assert changed[4]["sampler.scheduler"] == "DDPMScheduler"
    assert changed[5] == {"prediction._target_": f"{targets}.Epsilon"}


@pytest.mark.parametrize(
    ("number", "model", "words"),
    [
        (0, "basic_unet", ["network.use_time=false"]),
        (3, "flow", []),
        (6, "ddpm", ["sampler=ddpm"]),
    ],
)
def test_three_rungs_are_published_methods(number, model, words):
    """Composed in another way, from model=: the tutorial's, rectified flow, DDPM."""
    rung = compose_config(rungs()[number].words)
    whole = compose_config([f"model={model}", "network=unet_fast", "sampler.num_steps=20", *words])
    for node in (
        "network",
        "noise_schedule",
        "prediction",
        "weighting",
        "time_sampling",
        "sampler",
    ):
        assert rung[node] == whole[node], node
    assert rung.data.value_range == whole.data.value_range
    assert rung.trainer.max_steps == 1000 and rung.data.batch_size == 32


@pytest.mark.slow
def test_a_ladder_from_the_command_line(command, small, tmp_path):
    """Two rungs with two seeds; a second call reuses them and adds a third seed."""
    first = command("ladder", *small, "out=mine_out")
    out = last_line(first)
    assert out == tmp_path / "mine_out"
    assert "4 of 4 trainings to do, about" in first.stdout
    assert "4 of 4 done, about 0 s left" in first.stdout
    with Image.open(out / "ladder.png") as figure:
        assert min(figure.size) > 300
    content = json.loads((out / "ladder.json").read_text())
    assert not content["errors"]
    with (out / "ladder.csv").open() as file:
        table = list(csv.DictReader(file))
    assert [row["name"] for row in table] == ["blind", "seeing"]
    fid = np.zeros((2, 2))
    for rung in range(2):
        for seed in range(2):
            folder = out / f"rung_{rung}" / f"seed_{seed}"
            record = json.loads((folder / "metrics.json").read_text())
            assert record["status"] == "finished" and record["steps"] == 4
            assert record["seed"] == seed
            [evaluation] = folder.glob("evaluation/*/evaluation.json")
            scored = json.loads(evaluation.read_text())
            assert scored["seeds"] == [seed] and scored["num_samples"] == 70
            assert scored["num_calls"] == 2
            fid[rung, seed] = scored["scores"][0]["fid"]
    for rung, row in enumerate(table):
        assert float(row["fid_mean"]) == pytest.approx(fid[rung].mean())
        assert float(row["fid_std"]) == pytest.approx(fid[rung].std(ddof=1))
    by_hand = stats.ttest_rel(fid[1], fid[0])
    assert float(table[1]["fid_difference"]) == pytest.approx((fid[1] - fid[0]).mean())
    assert float(table[1]["fid_p_value"]) == pytest.approx(by_hand.pvalue)
    assert float(table[1]["fid_low"]) == pytest.approx(by_hand.confidence_interval(0.95).low)
    assert content["rungs"][1]["changed"] == {"network.use_time": {"from": False, "to": True}}
    parameters = {row["parameters"] for row in table}
    assert len(parameters) == 1  # the layers of a blind network are the same

    checkpoints = {p: p.stat().st_mtime_ns for p in out.rglob("last.ckpt")}
    evaluations = set(out.rglob("evaluation.json"))
    assert len(checkpoints) == len(evaluations) == 4
    again = command("ladder", *small[:-1], "seeds=0,1,2", "out=mine_out")
    assert last_line(again) == out
    assert "2 of 6 trainings to do" in again.stdout and "already trained" in again.stdout
    assert all(p.stat().st_mtime_ns == at for p, at in checkpoints.items())
    assert len(set(out.rglob("evaluation.json"))) == 6
    assert json.loads((out / "ladder.json").read_text())["rungs"][0]["summary"]["fid"]["n"] == 3


@pytest.mark.slow
def test_a_killed_ladder_is_resumed(typed, small, tmp_path):
    """One training killed before its first checkpoint, one scored, one not, one not begun."""
    assert typed("ladder", *small, "out=whole")[0] == 0
    shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    cut = tmp_path / "cut"
    begun = cut / "rung_0" / "seed_1"
    record = json.loads((begun / "metrics.json").read_text())
    (begun / "metrics.json").write_text(json.dumps(record | {"status": "running"}))
    shutil.rmtree(begun / "checkpoints")
    shutil.rmtree(begun / "evaluation")
    shutil.rmtree(cut / "rung_1" / "seed_0" / "evaluation")
    shutil.rmtree(cut / "rung_1" / "seed_1")
    done = cut / "rung_1" / "seed_0" / "checkpoints" / "last.ckpt"
    before = done.stat().st_mtime_ns
    code, out, err = typed("ladder", *small, "out=cut")
    assert code == 0, out + err
    assert "2 of 4 trainings to do" in out
    assert done.stat().st_mtime_ns == before
    whole, second = (
        json.loads((tmp_path / name / "ladder.json").read_text())["rungs"]
        for name in ("whole", "cut")
    )
    for a, b in zip(whole, second, strict=True):
        assert [run["scores"] for run in a["runs"]] == [run["scores"] for run in b["runs"]]


@pytest.mark.slow
def test_a_killed_training_is_resumed_from_its_checkpoint(typed, small, tmp_path):
    """Killed at step 2 of 4, with the status "running": same result as without interruption."""
    small = [*small[:-1], "seeds=1"]
    assert typed("ladder", *small, "out=whole")[0] == 0
    code, out, err = typed("ladder", *small, "trainer.max_steps=2", "out=cut")
    assert code == 0, out + err
    for folder in (tmp_path / "cut").glob("rung_*/seed_0"):
        config = folder / ".hydra" / "config.yaml"
        config.write_text(config.read_text().replace("max_steps: 2", "max_steps: 4"))
        last = folder / "checkpoints" / "last.ckpt"
        state = torch.load(last, weights_only=True)
        state["config"]["trainer"]["max_steps"] = 4
        torch.save(state, last)
        record = json.loads((folder / "metrics.json").read_text())
        (folder / "metrics.json").write_text(json.dumps(record | {"status": "running"}))
        shutil.rmtree(folder / "evaluation")
    code, out, err = typed("ladder", *small, "out=cut")
    assert code == 0, out + err
    assert "2 of 2 trainings to do" in out
    record = json.loads((tmp_path / "cut" / "rung_1" / "seed_0" / "metrics.json").read_text())
    assert record["steps"] == 4 and [again["step"] for again in record["resumed"]] == [2]
    for rung in (0, 1):
        first, second = (
            torch.load(
                tmp_path / name / f"rung_{rung}" / "seed_0" / "checkpoints" / "last.ckpt",
                weights_only=True,
            )["state_dict"]
            for name in ("whole", "cut")
        )
        assert all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.slow
def test_a_failed_training_does_not_stop_the_others(typed, small, tmp_path):
    assert typed("ladder", *small, "out=whole")[0] == 0
    path = tmp_path / "whole" / "rung_0" / "seed_1" / "metrics.json"
    broken = json.loads(path.read_text()) | {"status": "diverged", "error": "the loss is nan"}
    path.write_text(json.dumps(broken))
    code, out, err = typed("ladder", *small, "out=whole")
    assert code == 1, out + err
    assert "rung 0 (blind), seed 1 failed: the loss is nan" in out
    assert out.strip().splitlines()[-1] == str(tmp_path / "whole")
    content = json.loads((tmp_path / "whole" / "ladder.json").read_text())
    assert [len(rung["runs"]) for rung in content["rungs"]] == [1, 2]
    assert content["rungs"][1]["verdict"] == "not tested: one seed"
