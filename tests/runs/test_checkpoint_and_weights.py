"""Commands use the checkpoint, the weights and the precision that their options name."""

import json

import pytest

from diffusion_lab.errors import UserError
from diffusion_lab.runs import sampling_options
from tests.conftest import last_line


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["sample", "evaluate", "tradeoff", "likelihood", "diagnose", "export", "edit"]
)
@pytest.mark.parametrize(("checkpoint", "weights"), [("best", None), ("last", "raw")])
def test_every_command_opens_the_named_checkpoint_and_weights(
    typed, runs, monkeypatch, name, checkpoint, weights
):
    asked = []

    def opened(run, checkpoint="last", weights=None, trust=()):
        asked.append((checkpoint, weights))
        raise UserError("seen")

    monkeypatch.setattr(sampling_options, "load_run", opened)
    words = [f"checkpoint={checkpoint}", f"weights={weights or 'null'}"]
    words += {"export": ["out=new"], "edit": ["edit=inpaint"]}.get(name, [])
    code, _, err = typed(name, f"run={runs['conditional']}", *words)
    assert code == 2 and "seen" in err
    assert asked == [(checkpoint, weights)]


@pytest.mark.slow
def test_evaluation_samples_in_the_recorded_precision(command, runs, bars):
    found = {}
    for precision in ("32-true", "bf16-mixed"):
        out = last_line(
            command(
                "evaluate",
                f"run={runs['conditional']}",
                f"extractor={bars}",
                "num_samples=70",
                "seeds=1",
                "batch_size=50",
                f"precision={precision}",
            )
        )
        record = json.loads((out / "evaluation.json").read_text())
        assert record["precision"] == precision
        images = record["num_samples"] * len(record["seeds"])
        # seconds are written with three decimals
        written = 1000 * record["seconds"]["sampling"] / images
        assert record["milliseconds_per_image"] == pytest.approx(written, abs=0.51 / images)
        found[precision] = record["scores"][0]["kid"]
    assert found["32-true"] != found["bf16-mixed"]
