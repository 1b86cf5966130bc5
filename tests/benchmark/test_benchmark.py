"""scripts/benchmark.py from the command line: every part at small size, its file, its errors."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from torchvision.datasets import MNIST

from tests.cli.test_bad_input import assert_refused

OLD_RUN = Path(__file__).parents[1] / "runs" / "old" / "flow"
TINY = (
    "repeats=1",
    "seconds=0.05",
    "batch_size=2",
    "num_samples=1",
    "largest=20",  # below the second smallest batch, and all data sets
    "data=fake",
    "data.num_images=60",
    "data.val_size=4",
    "accelerator=cpu",
)
KEYS = {
    "part",
    "what",
    "against",
    "unit",
    "baseline",
    "ours",
    "ratio",
    "ratio_min",
    "ratio_max",
    "target",
    "met",
    "verdict",
    "baseline_values",
    "our_values",
    "details",
}


def measured(typed, tmp_path, part, *words):
    code, out, err = typed("benchmark", f"parts={part}", *TINY, f"out={part}", *words)
    assert code == 0, err
    assert out.strip().splitlines()[-1] == str(tmp_path / part)
    record = json.loads((tmp_path / part / "benchmark.json").read_text())
    for row in record["rows"]:
        assert row.keys() == KEYS and row["part"] == part
        assert len(row["baseline_values"]) == len(row["our_values"])
        assert row["ratio_min"] <= row["ratio"] <= row["ratio_max"]
        assert row["what"] in out and row["verdict"] in out
    assert record["machine"]["matmul_gflops"] > 0 and record["machine"]["threads"] >= 1
    assert record["data"]["source"] == "fake" and record["seconds"][part] > 0
    return record, out


@pytest.mark.slow
@pytest.mark.parametrize("part", ["data", "basic_unet", "overhead", "fast_sampling"])
def test_each_part_alone(typed, tmp_path, part):
    record, out = measured(typed, tmp_path, part)
    row, *more = record["rows"]
    assert len(more) == (part == "overhead")
    if part != "overhead":  # a difference, and noise may be larger
        assert row["baseline"] > 0 and row["ours"] > 0
    if part == "basic_unet":
        assert row["details"]["flops_of_a_step"] > 1e8
        assert row["details"]["our_share_of_matmul_rate"] > 0
        assert "GFLOP per step" in out
    if part == "fast_sampling":
        assert row["details"]["calls"] == 10
        assert "untrained" in out and "10 of the pipeline's 1,000 steps" in out
    assert "images_per_second" not in out  # the live bar went to a screen of its own


@pytest.mark.exhaustive
@pytest.mark.slow
def test_pictures_are_compared_with_torchvisions(typed, tmp_path):
    record, _ = measured(typed, tmp_path, "pictures", "largest=1020")
    loading, start, memory = record["rows"]
    assert loading["details"]["images"] == 827  # of 1,020, less the held-out tenths
    for row in (start, memory):
        assert "1,020 decoded pictures" in row["what"] and row["our_values"][0] > 0


@pytest.mark.slow
def test_a_thousand_steps_are_scaled_from_ten(typed, tmp_path, monkeypatch):
    monkeypatch.setattr("diffusion_lab.benchmark.parts.sampling.timed", lambda work, device: 2.0)
    [row] = measured(typed, tmp_path, "fast_sampling")[0]["rows"]
    assert row["baseline"] == 1 / (100 * 2.0) and row["ours"] == 1 / 2.0


@pytest.mark.slow
def test_scaling_part(typed, tmp_path):
    record, out = measured(typed, tmp_path, "scaling")
    assert record["rows"] == [] and len(record["scaling"]) == 6
    for curve in record["scaling"]:
        assert len(curve["x"]) == len(curve["seconds"]) >= 2
        assert f"{curve['name']}: exponent" in out
    assert (tmp_path / "scaling" / "scaling.png").stat().st_size > 10_000


@pytest.mark.slow
def test_speed_of_a_trained_run(typed, tmp_path, trained):
    run = trained["ddpm"]
    words = ("parts=fast_sampling", *TINY, f"run={run}", "out=made")
    code, _, err = typed("benchmark", *words)
    assert code == 0, err
    [row] = json.loads((tmp_path / "made" / "benchmark.json").read_text())["rows"]
    assert row["details"]["run"] == str(run) and row["details"]["network"] == "trained"


@pytest.mark.exhaustive
@pytest.mark.slow
@pytest.mark.parametrize("part", ["unet2d", "sampling"])
def test_a_part_with_the_large_network(typed, tmp_path, part):
    [row] = measured(typed, tmp_path, part, "precision=bf16-mixed")[0]["rows"]
    assert row["baseline"] > 0 and row["ours"] > 0
    assert row["details"]["precision"] == "bf16-mixed"


@pytest.mark.exhaustive
@pytest.mark.slow
def test_memory_is_measured_in_separate_processes(typed, tmp_path):
    [row] = measured(typed, tmp_path, "memory")[0]["rows"]
    assert row["ours"] > 100 and row["baseline"] > 100
    assert row["details"]["our_after_imports_mib"] < row["ours"]
    assert not (tmp_path / "logs").exists()  # its trainings were thrown away


@pytest.mark.exhaustive
@pytest.mark.slow
def test_startup_is_timed_from_process_start(typed, tmp_path):
    help_row, first_step = measured(typed, tmp_path, "start_up")[0]["rows"]
    assert 0 < help_row["ours"] < first_step["ours"]


@pytest.mark.slow
def test_replacement_for_mnist_is_reported_once(typed, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(MNIST, "mirrors", ["http://127.0.0.1:9/"])  # where nobody answers
    monkeypatch.delenv("DIFFUSION_LAB_DATA", raising=False)
    small = [word for word in TINY if not word.startswith("data")]
    code, _, err = typed("benchmark", "parts=basic_unet", *small, "out=made")
    assert code == 0, err
    assert caplog.text.count("using the 5000 real digits") == 1
    record = json.loads((tmp_path / "made" / "benchmark.json").read_text())
    assert record["data"]["source"] == "bundled"


@pytest.mark.slow
def test_help_lists_the_parts(command):
    process = command("benchmark", "--help")
    assert process.returncode == 0
    assert "overhead" not in process.stderr and "num_samples" in process.stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["parts=speed"], "parts=speed is unknown: choose from data, basic_unet"),
        (["parts=data,speed"], "parts=speed is unknown"),
        (["parts=[]"], "parts=[]: expected a list of one or more of data, basic_unet"),
        (["repeats=0"], "repeats=0: expected at least 1"),
        (["seconds=-1"], "seconds=-1.0: expected a number above 0"),
        (["seconds=nan"], "seconds=nan: expected a number above 0"),
        (["threads=0"], "threads=0: expected at least 1"),
        (["precision=64-true"], "precision=64-true: expected 32-true, bf16-mixed or auto"),
        (["batch_size=0"], "batch_size=0: expected at least 1"),
        (["accelerator=cup"], "accelerator=cup"),
        (["run=nowhere"], "run=nowhere is no folder"),
        ([f"run={OLD_RUN}", "parts=data"], "run= is used only by the measurement fast_sampling"),
        (["data.image_size=32"], "expected data.channels=1 data.image_size=28"),
        (["words=['trainer.nosuch=1']"], "trainer.nosuch is unknown"),
        (["speed=3"], "speed"),
        (["data=pictures"], "pictures"),
    ],
)
def test_mistakes_give_one_line(typed, words, message):
    assert_refused(typed("benchmark", *words, "out=made"), message)


def test_existing_results_are_not_overwritten(typed, tmp_path):
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "mine.txt").write_text("kept")
    assert_refused(typed("benchmark", "parts=data", "out=made"), "is not empty")


def test_failing_measurement_raises(typed, monkeypatch):
    from diffusion_lab.benchmark.parts import data_loading as data_path

    def broken(*_):
        raise RuntimeError("the loader broke")

    monkeypatch.setattr(data_path, "plain_loader", broken)
    with pytest.raises(RuntimeError, match="the loader broke"):
        typed("benchmark", "parts=data", *TINY, "out=made")


@pytest.mark.slow
def test_time_to_fid_increases_the_budget_until_reached(typed, monkeypatch, tmp_path):
    from diffusion_lab.benchmark.parts import time_to_fid

    monkeypatch.setattr(time_to_fid, "BUDGETS", (1, 1, 2, 30))
    monkeypatch.setattr(time_to_fid, "NUM_SAMPLES", 64)
    found = iter([20.0, 11.0, 13.0, 11.0, 10.0, 11.2])
    judged = []

    def scorer(*_):
        def look(images):
            judged.append(len(images))
            return SimpleNamespace(scores={"fid": next(found)})

        return look

    monkeypatch.setattr(time_to_fid, "choose_scorer", scorer)
    words = ("data=mnist", "data.source=bundled", "repeats=1", "seconds=0.1", "out=made")
    code, out, err = typed("benchmark", "parts=time_to_fid", *words)
    assert code == 0, err
    (row,) = json.loads((tmp_path / "made/benchmark.json").read_text())["rows"]
    assert judged == [64] * 6
    # one seed is not enough
    assert row["details"]["max_time_s"] == 2 and row["details"]["fid"] == [11, 10, 11.2]
    assert len(row["our_values"]) == row["details"]["trainings"] == 3
    assert 2 <= row["ours"] < 30
    assert row["baseline"] > 14  # 1,407 of the tutorial's steps, of which no CPU does 100 a second
    assert "time to BasicUNet's final FID" in out


def test_time_to_fid_needs_mnist(typed):
    refused = typed("benchmark", "parts=time_to_fid", "data=fake", "out=made")
    assert_refused(refused, "parts=time_to_fid needs MNIST", "data=fake")
