"""scripts/tradeoff.py: costs, Pareto fronts, resumed comparisons."""

import csv
import hashlib
import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save

from diffusion_lab.commands.tradeoff.figure import Point, tradeoff_figure
from diffusion_lab.commands.tradeoff.sampler_grid import DEFAULT, make_settings
from diffusion_lab.config.groups import noise_schedules, words
from diffusion_lab.errors import UserError
from diffusion_lab.evaluation.features.classifier import Classifier
from diffusion_lab.evaluation.features.extractor import TrainedExtractor
from diffusion_lab.evaluation.features.reference import make_reference, write_reference
from tests.cli.test_bad_input import assert_refused
from tests.conftest import last_line
from tests.evaluation.test_pareto import by_definition


@pytest.fixture(scope="module")
def extractor(tmp_path_factory):
    """The folder of an untrained extractor with 8 features for images of data=fake."""
    return untrained_extractor(tmp_path_factory.mktemp("extractor"))


def untrained_extractor(folder, num_train=40, num_test=40):
    folder.mkdir(exist_ok=True)
    torch.manual_seed(0)
    network = Classifier(1, 10, 8)
    (folder / "tiny.safetensors").write_bytes(save(network.state_dict()))
    record = {
        "version": "tiny",
        "sha256": hashlib.sha256((folder / "tiny.safetensors").read_bytes()).hexdigest(),
        "image_shape": [1, 28, 28],
        "num_classes": 10,
        "num_features": 8,
        "data": {"dataset": "fake"},
    }
    total = num_train + num_test
    images = torch.randint(0, 256, (total, 1, 28, 28), dtype=torch.uint8)
    labels = torch.arange(total) % 10
    real = make_reference(
        TrainedExtractor(network, record, folder),
        "fake",
        (images[:num_test], labels[:num_test]),
        (images[num_test:], labels[num_test:]),
    )
    reference = folder / "tiny.reference.safetensors"
    write_reference(real, reference)
    record["reference_sha256"] = hashlib.sha256(reference.read_bytes()).hexdigest()
    (folder / "tiny.json").write_text(json.dumps(record))
    return folder


def rows_of(folder):
    with (folder / "tradeoff.csv").open() as file:
        return list(csv.DictReader(file))


def small(run, extractor):
    return (
        f"run={run}",
        f"extractor={extractor}",
        "num_samples=12",
        "batch_size=8",
        "accelerator=cpu",
    )


@pytest.mark.slow
def test_settings_of_a_run_with_their_costs(command, runs, extractor):
    """In a process of its own; guidance doubles the NFE."""
    arguments = (
        *small(runs["conditional"], extractor),
        "samplers=blend,heun,dpm_solver",
        "num_steps=2,4",
        "spacings=leading,trailing",
        "guidance_scale=2",
        "seeds=2",
    )
    process = command("tradeoff", *arguments)
    out = last_line(process)
    assert out.parent == runs["conditional"] / "tradeoff"
    assert sorted(p.name for p in out.iterdir()) == [
        "tradeoff.csv",
        "tradeoff.json",
        "tradeoff.png",
    ]
    rows = rows_of(out)
    found = [(r["sampler"], r["spacing"], int(r["num_steps"]), float(r["calls"])) for r in rows]
    assert found == [
        ("blend", "", 2, 4),
        ("blend", "", 4, 8),
        ("heun", "", 2, 6),  # 2 (2 n - 1)
        ("heun", "", 4, 14),
        ("dpm_solver", "leading", 2, 4),
        ("dpm_solver", "leading", 4, 8),
        ("dpm_solver", "trailing", 2, 4),
        ("dpm_solver", "trailing", 4, 8),
    ]
    for row in rows:
        assert float(row["fid"]) > 0 and float(row["fid_std"]) >= 0 and row["seeds"] == "2"
        assert float(row["milliseconds"]) > 0 and 0 <= float(row["label_agreement"]) <= 1
    fid = [float(r["fid"]) for r in rows]
    for column in ("calls", "milliseconds"):
        front = [r[f"front_{column}"] == "True" for r in rows]
        assert front == by_definition([float(r[column]) for r in rows], fid)
    record = json.loads((out / "tradeoff.json").read_text())
    assert record["settings"]["extractor"]["name"] == "tiny" and record["floor"]["fid"] > 0
    assert "batch of 8 on cpu" in process.stdout and "spread is unknown" not in process.stdout
    with Image.open(out / "tradeoff.png") as figure:
        assert min(figure.size) > 300


@pytest.mark.slow
def test_scores_equal_evaluates_and_a_stopped_comparison_resumes(typed, trained, extractor):
    arguments = (
        *small(trained["ddpm"], extractor),
        "samplers=ddim,blend",
        "num_steps=2",
        "out=mine",
    )
    code, text, err = typed("tradeoff", *arguments)
    assert code == 0, err
    out = Path(text.strip().splitlines()[-1])
    assert "one seed per setting: the spread is unknown" in text
    first = rows_of(out)
    code, text, err = typed(
        "evaluate", *arguments[:-3], "sampler=ddim", "sampler.num_steps=2", "seeds=1"
    )
    assert code == 0, err
    evaluation = json.loads((Path(text.strip().splitlines()[-1]) / "evaluation.json").read_text())
    assert float(first[0]["fid"]) == pytest.approx(evaluation["scores"][0]["fid"], rel=1e-6)
    assert float(first[0]["calls"]) == evaluation["num_calls"] == 2

    # as a comparison that was stopped after its first setting leaves it
    record = json.loads((out / "tradeoff.json").read_text())
    del record["scores"]["blend 2"]
    record["scores"]["ddim 2"][0]["fid"] = 123.0
    (out / "tradeoff.json").write_text(json.dumps(record))
    (out / "tradeoff.png").unlink()
    code, _, err = typed("tradeoff", *arguments)
    assert code == 0, err
    again = rows_of(out)
    assert [row["fid"] for row in again] == ["123.0", first[1]["fid"]]
    assert [row["milliseconds"] for row in again] == [row["milliseconds"] for row in first]
    assert (out / "tradeoff.png").is_file()
    assert_refused(typed("tradeoff", *arguments, "seeds=2"), "out=mine", "other settings")
    (out / "tradeoff.json").write_text("{")
    assert_refused(typed("tradeoff", *arguments), "tradeoff.json is damaged")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("num_train", "num_test", "metric"), [(40, 6, "kid"), (6, 40, "fid"), (6, 6, "kid")]
)
def test_few_real_images_leave_out_the_fid(
    typed, trained, tmp_path, caplog, num_train, num_test, metric
):
    """Of 8 features the FID needs more than 8 images."""
    few = untrained_extractor(tmp_path / "few", num_train, num_test)
    arguments = (*small(trained["ddpm"], few), "samplers=ddim,blend", "num_steps=1,2", "out=few1")
    code, text, err = typed("tradeoff", *arguments)
    assert code == 0, err
    assert ("samplers are ordered by KID" in text + err + caplog.text) == (metric == "kid")
    rows = rows_of(tmp_path / "few1")
    front = by_definition([float(r["calls"]) for r in rows], [float(r[metric]) for r in rows])
    assert [r["front_calls"] == "True" for r in rows] == front
    assert ("fid" in rows[0]) == (metric == "fid")
    unknown = "real training images: FID unknown, because there are too few of them" in text
    assert unknown == (num_train == 6 and metric == "fid")
    assert (tmp_path / "few1" / "tradeoff.png").is_file()


@pytest.mark.slow
def test_compare_reads_what_evaluate_writes(typed, trained, extractor):
    for run in trained.values():
        sampling = ("sampler=blend", "sampler.num_steps=3", "seeds=2")
        code, _, err = typed("evaluate", *small(run, extractor), *sampling)
        assert code == 0, err
    runs = f"runs={','.join(map(str, trained.values()))}"
    code, text, err = typed("compare", runs, "sampler=blend", "num_samples=12")
    assert code == 0, err
    record = json.loads((Path(text.strip().splitlines()[-1]) / "comparison.json").read_text())
    assert [group["name"] for group in record["groups"]] == ["model=basic_unet", "model=ddpm"]
    found = {c["metric"]: c for c in record["comparisons"] if c["group"] == "model=ddpm"}
    assert list(found) == ["fid", "kid", "precision", "recall"]
    assert len(found["fid"]["values"]) == 2 and found["fid"]["unit"] == "sampling seeds"


@pytest.mark.slow
def test_incompatible_defaults_are_skipped_and_named_samplers_an_error(typed, trained, extractor):
    """The run's noise is uniform; ancestral samplers add Gaussian noise."""
    arguments = (*small(trained["basic_unet"], extractor), "num_steps=2")
    code, text, err = typed("tradeoff", *arguments)
    assert code == 0, err
    rows = rows_of(Path(text.strip().splitlines()[-1]))
    skipped = {row["sampler"]: row["skipped"] for row in rows if row["skipped"]}
    assert set(skipped) | {row["sampler"] for row in rows if row["fid"]} == set(DEFAULT)
    assert "Gaussian noise" in skipped["euler_ancestral"]
    assert "incompatible: euler_ancestral 2" in text
    assert_refused(
        typed("tradeoff", *arguments, "samplers=blend,euler_ancestral"),
        "the sampler setting 'euler_ancestral 2' cannot be used",
        "or leave out euler_ancestral",
    )


def test_spacings_multiply_only_the_samplers_that_have_the_option():
    assert set(DEFAULT) <= set(words("sampler"))
    schedule = noise_schedules()["cosine"]
    cells, skipped = make_settings(None, ["leading", "trailing"], [5, 10], schedule)
    assert not skipped
    names = [cell.name for cell in cells]
    assert names[:4] == ["blend 5", "blend 10", "heun 5", "heun 10"]
    assert "unipc leading 5" in names and len(names) == len(set(names)) == 2 * (2 + 2 * 4)
    cells, skipped = make_settings(None, None, [5, 2000], schedule)
    assert len(cells) == len(skipped) == len(DEFAULT)
    assert "1000 timesteps" in skipped["dpm_solver 2000"]
    with pytest.raises(UserError, match=r"none of the default samplers is .*1000 timesteps"):
        make_settings(None, None, [2000], schedule)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run="], ["run= is missing"]),
        (["run=nowhere"], ["run=nowhere is no folder"]),
        (["samplers=brush"], ["samplers=brush", "blend", "heun"]),
        (["num_steps=0"], ["num_steps=0", "num_steps=5,10,20"]),
        (["num_steps=[]"], ["num_steps=[]"]),
        (["spacings=wide"], ["spacings=wide", "leading", "trailing"]),
        (["samplers=blend", "spacings=leading"], ["spacings= has no effect"]),
        (
            ["samplers=ddim", "num_steps=1001"],
            ["the sampler setting 'ddim 1001'", "1000 timesteps"],
        ),
        (["num_samples=8"], ["num_samples=8", "more than 8"]),
        (["batch_size=0"], ["batch_size=0"]),
        (["seeds=0"], ["seeds=0"]),
        (["extractor=nowhere"], ["extractor=nowhere"]),
        (["guidance_scale=2"], ["guidance_scale=2", "no classes"]),
        (["+colour=red"], ["colour is unknown"]),
    ],
)
def test_tradeoff_rejects_bad_input(typed, trained, extractor, arguments, words):
    run = trained["ddpm"]
    before = sorted(run.rglob("*"))
    assert_refused(typed("tradeoff", *small(run, extractor), *arguments), *words)
    assert sorted(run.rglob("*")) == before


def test_the_figure_rings_points_on_the_pareto_fronts():
    curves = {
        "blend": [Point(5, 1.0, 80.0, (True, True)), Point(10, 2.0, 30.0, (False, False))],
        "heun": [Point(9, 2.5, 20.0, (True, False))],
    }
    figure = tradeoff_figure(curves, "FID", 1.2)
    ringed = [
        [line.get_xdata().tolist() for line in ax.lines if line.get_fillstyle() == "none"]
        for ax in figure.axes
    ]
    assert [x for x in ringed[0] if x] == [[5], [9]] and [x for x in ringed[1] if x] == [[1.0]]
    assert all(ax.get_yscale() == "log" for ax in figure.axes)
    assert any(label.get_text() == "real images: 1.2, below" for label in _legend(figure))
    near = tradeoff_figure(curves, "FID", 15.0)
    assert [15.0, 15.0] in [list(line.get_ydata()) for line in near.axes[0].lines]
    assert any(label.get_text() == "real images" for label in _legend(near))
    below_zero = tradeoff_figure({"blend": [Point(5, 1.0, -0.1, (True, True))]}, "KID")
    assert all(ax.get_yscale() == "linear" for ax in below_zero.axes)


def _legend(figure):
    return figure.legends[0].get_texts()
