"""evaluate.py pipeline=: somebody else's model is scored like a run of this project."""

import numpy as np
import pytest
from huggingface_hub import EvalResult, ModelCardData

from diffusion_lab.evaluation.features.load import load_extractor
from diffusion_lab.evaluation.features.reference import load_reference
from tests.cli.test_bad_input import assert_refused
from tests.commands.test_evaluate import record
from tests.runs.test_diffusers_pipeline import make_pipeline


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    """A diffusers pipeline with a model card that claims a FID of 12.5."""
    folder = tmp_path_factory.mktemp("pipeline")
    make_pipeline(folder)
    claim = EvalResult("unconditional-image-generation", "bars", "Bars", "val/fid", 12.5)
    front = ModelCardData(model_name="theirs", eval_results=[claim])
    (folder / "README.md").write_text(f"---\n{front.to_yaml()}\n---\n")
    return folder


DRAWN = ("accelerator=cpu", "num_samples=70", "seeds=1", "sampler=ddim", "sampler.num_steps=2")


def test_a_pipeline_is_scored_like_its_images(typed, pipeline, bars, tmp_path):
    real = ("data=fake", "data.num_images=400", f"extractor={bars}")
    code, out, err = typed("evaluate", f"pipeline={pipeline}", *real, *DRAWN, f"out={tmp_path}/a")
    assert code == 0, err
    found = record(out)
    assert found["claimed"] == {"fid": 12.5} and found["weights"] == "pipeline"
    assert found["reference"] == {"data": "fake", "n": 1000} and found["num_calls"] == 2
    difference = found["summary"]["fid"]["mean"] - 12.5
    assert "on the model card" in out and f"{difference:+20.4g}" in out

    sampled = typed("sample", f"pipeline={pipeline}", *DRAWN[:2], *DRAWN[3:], f"out={tmp_path}/b")
    assert sampled[0] == 0, sampled[2]
    code, out, err = typed("evaluate", f"images={tmp_path}/b/samples.npz", *real)
    assert code == 0, err
    assert record(out)["summary"] == found["summary"]


def test_published_moments_stand_in_for_real_images(typed, pipeline, bars, tmp_path):
    extractor = load_extractor(str(bars))
    moments = load_reference(extractor).test_moments
    np.savez(tmp_path / "real.npz", mu=moments.mean, sigma=moments.covariance)
    words = (f"extractor={bars}", f"reference={tmp_path}/real.npz", *DRAWN)
    code, out, err = typed("evaluate", f"pipeline={pipeline}", *words, f"out={tmp_path}/a")
    assert code == 0, err
    found, text = record(out), out
    assert "against moments of real images: real.npz (sha256 " in text
    assert "70 real images" not in text
    real = ("data=fake", "data.num_images=400", f"extractor={bars}")
    code, out, err = typed("evaluate", f"pipeline={pipeline}", *real, *DRAWN, f"out={tmp_path}/b")
    assert code == 0, err
    whole = record(out)["summary"]
    assert found["summary"]["fid"] == whole["fid"] and "kid" not in found["summary"]
    code, out, err = typed("evaluate", f"pipeline={pipeline}", *real, *DRAWN, "reference=train")
    assert code == 0, err
    assert "against moments of real images: 400 training images of fake" in out
    assert 0 < record(out)["summary"]["fid"]["mean"] != whole["fid"]["mean"]
    assert found["floor"] == {"num_samples": 0} and found["reference"]["n"] is None


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], ["expected extractor= or data="]),
        (["data=fake"], ["no extractor comes with data=fake"]),
        (["extractor={bars}", "reference=train"], ["reference=train needs", "type data="]),
        (["extractor={bars}", "data=fake", "weights=raw"], ["weights=raw works with run= only"]),
        (["extractor={bars}", "data=fake", "data.channels=0"], ["data.channels=0"]),
        (["extractor={bars}", "reference={small}", "num_samples=64"], ["num_samples=64", "65"]),
        (["extractor={bars}", "reference={large}"], ["expected (64,)", "bars_v1"]),
        (["extractor={bars}", "data=fake", "data.channels=3"], ["3x28x28, expected 1x28x28"]),
    ],
)
def test_mistakes_about_a_pipeline_give_one_line_before_sampling(
    typed, pipeline, bars, tmp_path, arguments, words
):
    files = {"small": tmp_path / "small.npz", "large": tmp_path / "large.npz"}
    for file, size in zip(files.values(), (64, 2048), strict=True):
        np.savez(file, mu=np.zeros(size), sigma=np.eye(size))
    given = [argument.format(bars=bars, **files) for argument in arguments]
    out = tmp_path / "out"
    assert_refused(typed("evaluate", f"pipeline={pipeline}", *given, f"out={out}"), *words)
    assert not out.exists()
