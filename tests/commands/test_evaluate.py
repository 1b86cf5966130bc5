"""scripts/evaluate.py: its scores are those of the images that sample.py writes."""

import json
import logging
from pathlib import Path

import numpy as np
import pytest
import torch

from diffusion_lab import load_run
from diffusion_lab.errors import UserError
from diffusion_lab.evaluation.features.load import load_extractor
from diffusion_lab.evaluation.features.reference import load_reference
from diffusion_lab.evaluation.score import FeatureScorer, floor
from diffusion_lab.sampling import draw
from diffusion_lab.scoring.choose_scorer import choose_scorer
from tests.cli.test_bad_input import assert_refused
from tests.conftest import last_line
from tests.support import forked

SMALL = ("accelerator=cpu", "num_samples=70", "seeds=2", "batch_size=50")


def record(out):
    return json.loads((Path(out.strip().splitlines()[-1]) / "evaluation.json").read_text())


@pytest.fixture(scope="module")
def evaluated(runs, bars, tmp_path_factory):
    """A conditional run's evaluation folder, by the command in a process of its own."""
    words = (f"run={runs['conditional']}", f"extractor={bars}", *SMALL)
    process = forked.run("evaluate", *words, cwd=tmp_path_factory.mktemp("elsewhere"))
    return last_line(process), process.stdout


def test_writes_a_record_and_a_figure_and_prints_a_table(evaluated, runs):
    folder, out = evaluated
    assert folder.parent == runs["conditional"] / "evaluation"
    assert sorted(p.name for p in folder.iterdir()) == ["evaluation.json", "samples.png"]
    for words in (
        "extractor bars_v1 (sha256 ",
        "1,000 test images of fake",
        "70 images, 2 seeds",
        "70 real images",
    ):
        assert words in out
    for title in ("FID", "KID", "precision", "class entropy (bits)", "agreement with the label"):
        assert f"\n{title}  " in out


def test_scores_are_those_of_the_samples_of_each_seed(evaluated, runs, bars):
    found = json.loads((evaluated[0] / "evaluation.json").read_text())
    run, extractor = load_run(runs["conditional"]), load_extractor(str(bars))
    scorer = FeatureScorer(load_reference(extractor))
    for scores in found["scores"]:
        images = run.sample(70, seed=scores["seed"], batch_size=50)
        asked = np.arange(70) % 10
        by_hand = scorer(extractor(images), asked)
        assert scores == pytest.approx({"seed": scores["seed"]} | by_hand)
    fids = [scores["fid"] for scores in found["scores"]]
    assert found["summary"]["fid"]["mean"] == pytest.approx(np.mean(fids))
    assert found["summary"]["fid"]["std"] == pytest.approx(np.std(fids, ddof=1))
    real = [scores["fid"] for scores in floor(scorer, 70, range(3))]
    assert found["floor"]["fid"]["mean"] == pytest.approx(np.mean(real))


def test_record_holds_all_settings_of_the_evaluation(evaluated, runs, bars):
    found = json.loads((evaluated[0] / "evaluation.json").read_text())
    extractor = load_extractor(str(bars))
    assert found["extractor"] == {"name": "bars_v1", "sha256": extractor.sha256}
    assert found["reference"] == {"data": "fake", "n": 1000}
    assert found["weights"] == "ema" and found["seeds"] == [0, 1] and found["num_samples"] == 70
    assert found["num_calls"] == load_run(runs["conditional"]).config["sampler"]["num_steps"]
    assert found["labels"] == list(range(10))
    assert found["milliseconds_per_image"] > 0
    assert found["seconds"].keys() == {"sampling", "features", "metrics", "floor"}


def test_nfe_is_counted_in_the_network(typed, runs, bars):
    """Heun with n steps has NFE 2 n - 1, guidance doubles it."""
    words = ("sampler=heun", "sampler.num_steps=3", "guidance_scale=2")
    code, out, err = typed(
        "evaluate", f"run={runs['conditional']}", f"extractor={bars}", *SMALL, *words
    )
    assert code == 0, err
    assert record(out)["num_calls"] == 2 * (2 * 3 - 1)


def test_files_score_like_the_run_they_were_sampled_from(typed, runs, bars, evaluated, tmp_path):
    files = []
    for seed in (0, 1):
        code, _, err = typed(
            "sample",
            f"run={runs['conditional']}",
            "num_samples=70",
            "batch_size=50",
            f"seed={seed}",
            f"out={tmp_path / str(seed)}",
        )
        assert code == 0, err
        files.append(str(tmp_path / str(seed) / "samples.npz"))
    code, out, err = typed("evaluate", f"images={','.join(files)}", f"extractor={bars}")
    assert code == 0, err
    ours, theirs = record(out), json.loads((evaluated[0] / "evaluation.json").read_text())
    assert ours["summary"] == theirs["summary"]
    assert ours["seeds"] == files and ours["num_calls"] is None


def test_one_seed_has_no_spread(typed, runs, bars):
    words = (f"run={runs['conditional']}", f"extractor={bars}", *SMALL, "seeds=[7]")
    code, out, err = typed("evaluate", *words)
    assert code == 0, err
    assert "1 seed, no spread" in out
    found = record(out)
    assert found["summary"]["fid"]["std"] is None and found["scores"][0]["seed"] == 7


def save(path, images, **more):
    np.savez(path, images=images, **more)
    return path


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], ["expected one of run=, pipeline= and images=", "run=logs/runs/<name>"]),
        (["pipeline=x"], ["expected one of run=, pipeline= and images="]),
        (["data=fake"], ["data= works with pipeline= and images=", "leave out data="]),
        (["reference=none.npz"], ["reference=none.npz", "mu (F,)"]),
        (["num_samples=1"], ["num_samples=1", "at least 2"]),
        (["batch_size=0"], ["batch_size=0"]),
        (["seeds=0"], ["seeds=0", "seeds=3"]),
        (["seeds=[1,1]"], ["expected different seeds"]),
        (["seeds=[-1]"], ["seed=-1"]),
        (["seeds=many"], ["seeds=many"]),
        (["weights=raww"], ["weights=raww", "ema or raw"]),
        (["extractor=mnist_v9"], ["extractor=mnist_v9", "mnist_v1"]),
        (["extractor=null"], ["data=fake", "train_extractor.py data=fake"]),
        (["sampler=euler", "sampler.num_steps=0"], ["num_steps=0"]),
        (["labels=11"], ["labels=11"]),
        (["guidance_scale=2", "labels=none"], ["labels=none"]),
        (["+speed=3"], ["speed is unknown"]),
    ],
)
def test_mistakes_about_a_run_give_one_line_before_sampling(
    typed, runs, bars, tmp_path, arguments, words
):
    given = [f"run={runs['conditional']}", f"extractor={bars}"] if arguments else []
    out = tmp_path / "out"
    assert_refused(typed("evaluate", *given, f"out={out}", *arguments), *words)
    assert not out.exists()


def test_a_run_without_an_average_has_no_ema_weights(typed, bars, tmp_path):
    from diffusion_lab import compose_config, train
    from tests.conftest import TINY

    words = ["callbacks=minimal", "callbacks.ema=null", "logger=csv"]
    train(compose_config([*TINY[:-2], *words], tmp_path / "run"))
    given = (f"run={tmp_path / 'run'}", f"extractor={bars}", "weights=ema")
    assert_refused(typed("evaluate", *given), "weights=ema", "raw")


@pytest.mark.parametrize(
    ("images", "more", "words"),
    [
        (np.full((80, 1, 31, 28), 9, np.uint8), {}, ["31x28", "28x28"]),
        (np.full((80, 3, 28, 28), 9, np.uint8), {}, ["3 channels"]),
        (np.zeros((80, 28, 28), np.uint8), {}, ["(80, 28, 28)", "(N, C, H, W)"]),
        (np.zeros((80, 1, 28, 28), np.float32), {}, ["float32", "uint8"]),
        (np.full((80, 1, 28, 28), np.nan, np.float32), {}, ["not all finite"]),
        (np.full((80, 1, 32, 32), 99, np.uint8), {}, ["not black"]),
        (np.full((1, 1, 28, 28), 9, np.uint8), {}, ["1 images", "at least 2"]),
        (np.ones((80, 1, 28, 28), np.uint8), {}, ["no pixel is above 1", "* 255"]),
        (np.full((80, 1, 28, 28), 9, np.uint8), {"labels": np.zeros(7, int)}, ["labels"]),
        (np.full((80, 1, 28, 28), 9, np.uint8), {"guidance_scale": np.ones(80)}, ["guidance"]),
    ],
)
def test_images_that_cannot_be_scored_give_one_line(typed, bars, tmp_path, images, more, words):
    file = save(tmp_path / "images.npz", images, **more)
    assert_refused(typed("evaluate", f"images={file}", f"extractor={bars}"), *words)
    assert not (tmp_path / "evaluation").exists()


def test_mistakes_about_files_give_one_line(typed, bars, tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (80, 1, 28, 28), dtype=np.uint8)
    file = save(tmp_path / "images.npz", images)
    fewer = save(tmp_path / "fewer.npz", images[:70])
    other = tmp_path / "other.npz"
    np.savez(other, pictures=images)
    text = tmp_path / "text.npz"
    text.write_text("no arrays")
    given = f"extractor={bars}"
    for arguments, words in {
        (f"images={file}",): ["expected extractor= or data=", "extractor=mnist_v1"],
        (f"images={file}", "data=fake"): ["no extractor comes with data=fake"],
        (f"images={file}", "data=fake", "+data.sides=2", given): ["data.sides is unknown"],
        (f"images={tmp_path}/none.npz", given): ["No such file"],
        (f"images={other}", given): ["pictures", "images"],
        (f"images={text}", given): ["cannot be read"],
        (f"images={file},{fewer}", given): ["same shape in every file"],
        (f"images={file}", "num_samples=81", given): ["num_samples=81", "80"],
        (f"images={file}", "labels=all", given): ["labels= has no effect on images="],
        (f"images={file}", "sampler=heun", given): ["sampler="],
        (f"images={file}", "seeds=3", given): ["seeds="],
        (f"images={file}", "guidance_scale=2", given): ["guidance_scale="],
        (f"images={file}", "checkpoint=best", given): ["checkpoint="],
        (f"images={file}", "trust=[nobody]", given): ["trust="],
    }.items():
        assert_refused(typed("evaluate", *arguments), *words)


def test_a_non_finite_image_is_an_error_and_not_saved_as_black(runs, monkeypatch):
    run = load_run(runs["stock"])
    denoise = run.module.denoise

    def broken(x_t, t, labels=None):
        x0 = denoise(x_t, t, labels)
        x0[1, 0, 3, 3] = torch.nan
        return x0

    monkeypatch.setattr(run.module, "denoise", broken)
    with pytest.raises(UserError, match="image 1 is not finite"):
        draw.draw(
            run.module,
            run.sampler(),
            run.image_shape,
            run.value_range,
            num_samples=4,
            batch_size=4,
            seed=0,
        )


def test_the_border_of_padded_images_is_cut_off(runs, bars):
    """data.image_size=32 pads with black; a poor model's pixels in the border are not scored."""
    run, extractor = load_run(runs["stock"]), load_extractor(str(bars))
    images = torch.randint(0, 256, (80, 1, 28, 28), generator=torch.Generator().manual_seed(0))
    images = images.to(torch.uint8)
    wide = torch.nn.functional.pad(images, (2, 2, 2, 2), value=255)
    scorer = choose_scorer(str(bars), run, None)
    assert (
        scorer(wide).scores
        == scorer(images).scores
        == FeatureScorer(scorer.reference)(extractor(images))
    )


def test_too_few_samples_warn_and_leave_fid_out(typed, runs, bars, caplog):
    words = (f"run={runs['stock']}", f"extractor={bars}", "num_samples=20", "seeds=1")
    with caplog.at_level(logging.WARNING):
        code, out, err = typed("evaluate", *words, "accelerator=cpu")
    assert code == 0, err
    assert "fid" not in record(out)["summary"] and "kid" in record(out)["summary"]
    assert "FID is left out" in caplog.text + err + out
