"""scripts/compare.py: rows, intervals and verdicts for evaluations with known scores."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import stats

from diffusion_lab.commands.compare.evaluated_runs import find_runs
from diffusion_lab.config.groups import sampler_config, sampler_word, words
from tests.cli.test_bad_input import assert_refused
from tests.conftest import last_line
from tests.support.evaluated_runs import BLEND, HEUN, evaluate, make_run

MIXED = "not tested: one training against several"


def compared(typed, *arguments, metrics="fid,kid"):
    code, out, err = typed("compare", *arguments, f"metrics={metrics}")
    assert code == 0, err
    folder = Path(out.strip().splitlines()[-1])
    with (folder / "comparison.csv").open() as file:
        rows = list(csv.DictReader(file))
    return {(row["group"], row["metric"]): row for row in rows}, folder, out


def test_means_and_tests_over_training_seeds_equal_scipys(command, typed, tmp_path):
    """In a process of its own: known means, Welch's test and its interval from scipy."""
    values = {"a": ([9.0, 11.0], [10.5], [12.0, 12.0, 12.0]), "b": ([20.0], [21.0], [19.5], [20.5])}
    for name, runs in values.items():
        for seed, fids in enumerate(runs):
            choices = {"model": {"a": "flow", "b": "ddpm"}[name]}
            config = {"optimizer": {"lr": {"a": 0.001, "b": 0.002}[name]}}
            make_run(tmp_path / "logs" / f"{name}{seed}", fids, seed, config, choices)
    out = last_line(command("compare", "runs=logs/*", "metrics=fid,kid"))
    assert out.parent == tmp_path / "logs" / "comparisons"
    assert sorted(p.name for p in out.iterdir()) == [
        "comparison.csv",
        "comparison.json",
        "comparison.png",
        "losses.png",
    ]
    with (out / "comparison.csv").open() as file:
        rows = {(row["group"], row["metric"]): row for row in csv.DictReader(file)}
    flow, ddpm = rows["model=flow", "fid"], rows["model=ddpm", "fid"]
    means = [[np.mean(fids) for fids in runs] for runs in values.values()]
    assert (flow["over"], flow["n"], ddpm["n"]) == ("training seeds", "3", "4")
    assert flow["verdict"] == "baseline" and flow["difference"] == ""
    assert ddpm["verdict"] == "higher"
    test = stats.ttest_ind(means[1], means[0], equal_var=False)
    low, high = test.confidence_interval(0.95)
    found = [float(ddpm[k]) for k in ("difference", "difference_low", "difference_high", "p")]
    expected = [np.mean(means[1]) - np.mean(means[0]), low, high, test.pvalue]
    np.testing.assert_allclose(found, expected, rtol=1e-9)
    # two tests of one p each: Holm doubles it
    assert float(ddpm["p_holm"]) == pytest.approx(2 * test.pvalue)
    mean, sem = np.mean(means[0]), stats.sem(means[0])
    ends = stats.t.interval(0.95, 2, mean, sem)
    np.testing.assert_allclose([float(flow["low"]), float(flow["high"])], ends, rtol=1e-9)

    record = json.loads((out / "comparison.json").read_text())
    assert [g["name"] for g in record["groups"]] == ["model=flow", "model=ddpm"]
    assert record["groups"][1]["settings"] == {"optimizer.lr": "0.002"}
    assert record["groups"][0]["val/loss"] == 0.25
    for name in ("comparison.png", "losses.png"):
        with Image.open(out / name) as figure:
            assert min(figure.size) > 300
    # with the baselines exchanged, named by a folder or by the row's name
    for baseline in ("baseline=logs/b2", "baseline='model=ddpm'"):
        rows, _, text = compared(typed, "runs=logs/a*,logs/b*", baseline)
        assert rows["model=ddpm", "fid"]["verdict"] == "baseline"
        assert rows["model=flow", "fid"]["verdict"] == "lower"
        row = next(line for line in text.splitlines() if "3 training seeds" in line)
        # 120 seconds of training are printed as minutes
        assert [cell.strip() for cell in row.split("│")[-3:-1]] == ["2.0", "1,000"]


def test_equal_groups_show_no_difference(typed, tmp_path):
    for name, lr in (("a", 0.1), ("b", 0.2)):
        for seed, fid in enumerate([5.0, 6.0, 7.0]):
            make_run(tmp_path / f"{name}{seed}", [fid], seed, {"optimizer": {"lr": lr}})
    rows, _, _ = compared(typed, "runs=a*,b*")
    row = rows["optimizer.lr=0.2", "fid"]
    assert float(row["difference"]) == 0 and float(row["p"]) == 1
    assert row["verdict"] == "no significant difference"


def test_holm_correction_may_remove_significance(typed, tmp_path):
    fids = {
        0.1: [10, 10.5, 11],
        0.2: [11.4, 11.9, 12.4],
        0.3: [10, 10.5, 11.1],
        0.4: [9.9, 10.4, 11],
    }
    for lr, values in fids.items():
        for seed, fid in enumerate(values):
            make_run(tmp_path / f"lr{lr}_{seed}", [fid], seed, {"optimizer": {"lr": lr}})
    rows, _, _ = compared(typed, "runs=lr*", metrics="fid")
    row = rows["optimizer.lr=0.2", "fid"]
    assert float(row["p"]) < 0.05 < float(row["p_holm"]) == pytest.approx(3 * float(row["p"]))
    assert row["verdict"] == "no significant difference"


@pytest.mark.parametrize(
    ("a", "b", "verdict", "over"),
    [
        ([[5.0]], [[9.0]], "not tested: one seed", "sampling seeds"),
        ([[5.0, 5.2]], [[9.0, 9.1]], "higher, for these two trainings only", "sampling seeds"),
        ([[5.0], [5.2]], [[9.0, 9.1]], MIXED, "training seeds"),
        ([[5.0], [5.2]], [[9.0], [9.1]], "higher", "training seeds"),
        ([[5.0, 5.0]], [[9.0, 9.0]], "not tested: no spread over seeds", "sampling seeds"),
        ([[5.0, 5.1]], [[9.0, None]], "not tested: a score is not finite", "sampling seeds"),
    ],
)
def test_verdicts_depend_on_the_kind_and_number_of_seeds(typed, tmp_path, a, b, verdict, over):
    for name, lr, runs in (("a", 0.1, a), ("b", 0.2, b)):
        for seed, fids in enumerate(runs):
            make_run(tmp_path / f"{name}{seed}", fids, seed, {"optimizer": {"lr": lr}})
    rows, _, out = compared(typed, "runs=a*,b*", metrics="fid")
    assert rows["optimizer.lr=0.2", "fid"]["verdict"] == verdict
    assert rows["optimizer.lr=0.1", "fid"]["over"] == over
    assert ("trainings with other seeds may vary more" in out) == (1 in (len(a), len(b)))
    if verdict == MIXED:
        assert rows["optimizer.lr=0.2", "fid"]["p"] == ""


def test_rows_are_named_by_the_fewest_settings_that_distinguish_them(typed, tmp_path):
    for i, (model, schedule, lr) in enumerate(
        [("flow", "linear", 0.1), ("flow", "cosine", 0.1), ("ddpm", "cosine", 0.3)]
    ):
        config = {"optimizer": {"lr": lr}, "noise_schedule": {"beta_schedule": schedule}}
        config["network"] = {"width": {"flow": 8, "ddpm": 16}[model], "skip": model == "flow"}
        choices = {"model": model, "noise_schedule": schedule, "network": "unet"}
        make_run(tmp_path / f"r{i}", [5.0, 6.0], i, config, choices)
    rows, folder, out = compared(typed, "runs=r0,r1,r2", metrics="fid")
    assert [group for group, _ in rows] == [
        "model=flow, noise_schedule=linear",
        "model=flow, noise_schedule=cosine",
        "model=ddpm, noise_schedule=cosine",
    ]
    groups = json.loads((folder / "comparison.json").read_text())["groups"]
    assert groups[2]["settings"] == {
        "optimizer.lr": "0.3",
        "noise_schedule.beta_schedule": "cosine",
        "network.width": "16",
        "network.skip": "false",
    }
    assert "differ in 4 settings" in out


def test_folders_and_loggers_do_not_make_a_row_of_their_own(typed, tmp_path):
    make_run(tmp_path / "a", [5.0], 0)
    moved = {"paths": {"output_dir": "/else"}, "logger": {"csv": {"name": "y"}}}
    make_run(tmp_path / "b", [6.0], 1, moved | {"data": {"data_dir": "/there", "path": "x"}})
    rows, _, out = compared(typed, "runs=a,b", metrics="fid")
    [row] = rows.values()
    assert (row["group"], row["n"], row["mean"]) == ("model=flow", "2", "5.5")
    assert "difference to" not in out


def test_options_select_the_newest_matching_evaluation(typed, tmp_path):
    for i, lr in enumerate((0.1, 0.2)):
        run = make_run(tmp_path / f"r{i}", [5.0 + i, 6.0 + i], 0, {"optimizer": {"lr": lr}})
        evaluate(run, [3.0 + i, 3.5 + i], "2026-01-02_00-00-00_b", sampler=HEUN, num_calls=39.0)
    evaluate(tmp_path / "r0", [1.0, 2.0], "2026-01-03_00-00-00_c", num_samples=500)
    name = ("optimizer.lr=0.1", "fid")
    assert float(compared(typed, "runs=r0,r1", "sampler=heun")[0][name]["mean"]) == 3.25
    chosen = compared(typed, "runs=r0,r1", "sampler=blend", "num_samples=2000")[0]
    assert float(chosen[name]["mean"]) == 5.5
    wrong = typed("compare", "runs=r0,r1", "metrics=fid")
    assert_refused(
        wrong, "num_samples 500", "2000", "scripts/evaluate.py run=r1", "num_samples=500"
    )
    wrong = typed("compare", "runs=r0,r1", "metrics=fid", "sampler=blend", "num_samples=500")
    assert_refused(
        wrong,
        "r1 has no evaluation with sampler=blend num_samples=500",
        "sampler=heun sampler.num_steps=20 num_samples=2000",
        "python scripts/evaluate.py run=r1 sampler=blend sampler.num_steps=40 num_samples=500",
    )


def test_the_suggested_evaluation_gives_the_same_nfe(typed, tmp_path):
    """Guidance takes two network evaluations a step; an own extractor must be named again."""
    mine = {"extractor": {"name": "mine", "sha256": "cd" * 32}}
    steps = {"sampler": BLEND | {"num_steps": 5}, "num_calls": 10.0, "guidance_scale": 2.0}
    make_run(tmp_path / "guided", [5.0, 6.0], 0, **mine, **steps)
    plain = {"sampler": BLEND | {"num_steps": 2}, "num_calls": 2.0}
    make_run(tmp_path / "plain", [5.0, 6.0], 1, **mine, **plain)
    again = "run=plain sampler=blend sampler.num_steps=10 num_samples=2000 extractor=<folder of"
    assert_refused(typed("compare", "runs=guided,plain", "metrics=fid"), again)
    # 2 is twice one step, and Heun's 39 is no even number
    again = "run=guided sampler=blend sampler.num_steps=1 "
    assert_refused(typed("compare", "runs=plain,guided", "metrics=fid"), again)
    for name, scale, calls in (("plain", 1.0, 39.0), ("guided", 2.0, 78.0)):
        of_heun = {"sampler": HEUN, "num_calls": calls, "guidance_scale": scale}
        evaluate(tmp_path / name, [1.0, 2.0], "2026-01-03_00-00-00_c", **mine, **of_heun)
    assert_refused(typed("compare", "runs=plain,guided", "metrics=fid"), "evaluate again, both")


def test_a_missing_evaluation_is_asked_for_like_the_others(typed, tmp_path):
    mine = {"extractor": {"name": "mine", "sha256": "cd" * 32}, "num_samples": 700}
    for seed, name in enumerate("ab"):
        make_run(tmp_path / name, [5.0, 6.0], seed, **mine)
    settings = "num_samples=700 extractor=<folder of mine>"
    heun = f"evaluate.py run=a sampler=heun {settings}"
    assert_refused(typed("compare", "runs=a,b", "metrics=fid", "sampler=heun"), heun)
    heun = {"sampler": HEUN, "num_calls": 39.0}
    evaluate(tmp_path / "b", [1.0, 2.0], "2026-01-03_00-00-00_c", **mine, **heun)
    heun = f"evaluate.py run=a sampler=heun sampler.num_steps=20 {settings}"
    assert_refused(typed("compare", "runs=a,b", "metrics=fid", "sampler=heun"), heun)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"extractor": {"name": "mine", "sha256": "cd" * 32}}, ["mnist_v1 (abababab)", "mine"]),
        ({"reference": {"data": "kmnist", "n": 10000}}, ["reference", "kmnist"]),
        ({"reference": {"data": "x.npz", "n": None}}, ["with reference", "x.npz (moments)"]),
        ({"num_calls": 79.0}, ["NFE 40", "79"]),
        ({"scores": []}, ["evaluation.json is damaged", "no sampler settings or no scores"]),
        ({"scores": [{"seed": 0, "fid": "low"}]}, ["evaluation.json is", "fid is not a number"]),
        ({"sampler": None}, ["evaluation.json is damaged", "no sampler settings or no scores"]),
    ],
)
def test_evaluations_with_different_settings_are_rejected(typed, tmp_path, changed, words):
    make_run(tmp_path / "a", [5.0, 6.0], 0)
    make_run(tmp_path / "b", [5.0, 6.0], 1, **changed)
    assert_refused(typed("compare", "runs=a,b", "metrics=fid"), *words)
    assert not (tmp_path / "logs").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], ["runs"]),
        (["runs="], ["runs= is missing", "runs=logs/runs/a,logs/runs/b"]),
        (["runs=nowhere,a"], ["runs=nowhere matches no folder", "sweep"]),
        (["runs=nothing*"], ["runs=nothing* matches no folder"]),
        (["runs=empty"], ["runs=empty holds no run"]),
        (["runs=a"], ["is one run"]),
        (["runs=a,./a"], ["is one run"]),
        (["runs=a,bare"], ["bare has no evaluation", "python scripts/evaluate.py run=bare"]),
        (["runs=a,same"], ["a and same are the same training", "seed=0"]),
        (["runs=a,b", "metrics=beauty"], ["metrics=beauty", "fid, kid"]),
        (["runs=a,b", "metrics=[]"], ["metrics=[]", "fid, kid"]),
        (["runs=a,b", "baseline=c"], ["baseline=c", "baseline=a"]),
        (["runs=a,b", "out=a"], ["out=a is not empty"]),
        (["runs=a,b", "+colour=red"], ["colour is unknown"]),
        (["runs=a,b", "num_samples=many"], ["num_samples", "many"]),
        (["runs=a,b", "sampler=brush"], ["sampler=brush is unknown", "blend", "heun"]),
        (
            ["runs=a,b", "sampler=heun", "sampler.num_steps=3"],
            ["sampler's name only", "type sampler=heun and leave out"],
        ),
    ],
)
def test_compare_rejects_bad_input(typed, tmp_path, arguments, words):
    make_run(tmp_path / "a", [5.0, 6.0], 0)
    make_run(tmp_path / "b", [5.0, 6.0], 1)
    make_run(tmp_path / "same", [5.0, 6.0], 0)
    bare = make_run(tmp_path / "bare", [5.0], 2)
    (bare / "evaluation" / "2026-01-01_00-00-00_a" / "evaluation.json").unlink()
    (tmp_path / "empty").mkdir()
    metrics = [] if any(word.startswith("metrics") for word in arguments) else ["metrics=fid"]
    assert_refused(typed("compare", *arguments, *metrics), *words)


def test_runs_without_a_checkpoint_are_left_out_with_a_warning(tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    for name in ("good", "typo"):
        make_run(Path("runs") / name, [5.0])
    shutil.rmtree("runs/typo/evaluation")
    Path("runs/typo/metrics.json").write_text('{"status": "failed"}')
    assert find_runs(["runs"]) == find_runs(["runs/*"]) == [Path("runs/good")]
    assert [record.getMessage() for record in caplog.records] == [
        "runs/typo is left out: it never saved a checkpoint"
    ] * 2
    # a run that is named itself stays: reading it reports what is missing
    assert find_runs(["runs/typo"]) == [Path("runs/typo")]


def test_a_sweep_folder_stands_for_its_jobs_in_order(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for job in (0, 2, 10):
        make_run(Path("sweep") / str(job), [5.0], job)
    make_run(Path("[odd]"), [5.0], 3)
    found = find_runs(["sweep", "sweep/2", "[odd]", str(tmp_path / "sweep" / "1*")])
    assert [str(p) for p in found] == ["sweep/0", "sweep/2", "sweep/10", "[odd]"]


@pytest.mark.parametrize("name", words("sampler"))
def test_a_samplers_name_does_not_depend_on_its_settings(name):
    assert sampler_word(sampler_config(name) | {"num_steps": 7}) == name
    assert sampler_word({"_target_": "mine.Own"}) == "Own"
