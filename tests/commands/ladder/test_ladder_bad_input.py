"""ladder.py: mistakes give one line before any training, and no folder of results is changed."""

import pytest

from tests.cli.test_bad_input import assert_refused
from tests.commands.ladder.conftest import MINE


def other_ladder(folder, text):
    (folder / "mine" / "ladder" / "two.yaml").write_text(text)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["data.nothing=1"], ["rung 0 (blind)", "data.nothing is unknown"]),
        (["network.use_time=true"], ["rung 1 (seeing) is the same training as rung 0 (blind)"]),
        (["seed=3"], ["seed=3", "seeds="]),
        (["seeds=0"], ["seeds=0", "seeds=3"]),
        (["seeds=[]"], ["seeds=[]"]),
        (["seeds=1,1"], ["expected different seeds"]),
        (["seeds=-1,2"], ["seed"]),
        (["seeds=x"], ["seeds=x"]),
        (["num_samples=1"], ["num_samples=1"]),
        (["num_samples=64"], ["num_samples=64", "64 features"]),
        (["batch_size=0"], ["batch_size=0"]),
        (["extractor=nowhere"], ["extractor=nowhere"]),
        (["trainer.max_steps=-1"], ["trainer.max_steps=-1", "number of steps"]),
        (["+trainer.max_time=00:00:01:00"], ["max_time"]),
        (["ladder=nowhere"], ["ladder=nowhere", "toy_to_ddpm"]),
        (["ladder.rungs=[]"], ["ladder.rungs is empty"]),
        (["out=taken"], ["out=taken holds notes.txt"]),
        (["out=taken/notes.txt"], ["is a file"]),
        (["prediction=epsilon"], ["rung 0 (blind)", "prediction=epsilon"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_ladder_rejects_bad_input_before_any_training(typed, small, tmp_path, arguments, words):
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "notes.txt").touch()
    assert_refused(typed("ladder", *small, *arguments), *words)
    assert not (tmp_path / "logs").exists()
    assert [p.name for p in (tmp_path / "taken").iterdir()] == ["notes.txt"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("second", "words"),
    [
        ("{name: b, change: c, overrides: [network.wide=1]}", ["rung 1 (b)", "network.wide"]),
        ("{name: b, change: c, overrides: [data.batch_size=8]}", ["rung 1 (b)", "budget", "8"]),
        ("{name: b, change: c, overrides: [sampler=ddpm]}", ["rung 1 (b)", "uniform"]),
        ("{name: a, change: c, overrides: [sampler=ddim]}", ["more than once"]),
        ("{name: b, change: c}", ["overrides"]),
        ("{name: b, change: c, words: [x=1]}", ["words"]),
        ("{name: b, change: c, overrides: [seed=1]}", ["seed=1", "seeds="]),
    ],
)
def test_a_users_ladder_is_checked(typed, small, tmp_path, second, words):
    text = MINE.replace("{name: blind", "{name: a").splitlines()
    other_ladder(tmp_path, "\n".join([*text[:-1], f"  - {second}"]))
    # overrides of the command line would win over the rung's
    mine = [w for w in small if w != "data.batch_size=4"]
    assert_refused(typed("ladder", *mine), *words)
    assert not (tmp_path / "logs").exists()


@pytest.mark.slow
def test_the_folder_of_another_ladder_is_not_changed(typed, small, tmp_path):
    small = [*small[:-1], "seeds=1"]
    assert typed("ladder", *small, "out=whole")[0] == 0
    before = (tmp_path / "whole" / "ladder.json").read_bytes()
    assert_refused(
        typed("ladder", *small, "out=whole", "optimizer.lr=0.1"),
        "optimizer.lr=0.001",
        "this ladder has 0.1",
        "type out=<another folder>",
    )
    assert (tmp_path / "whole" / "ladder.json").read_bytes() == before


@pytest.mark.parametrize(
    ("content", "reason"),
    [("[", "cannot be read ("), ("seed: 1", "is not the configuration of a training (")],
)
def test_a_rung_with_a_damaged_configuration_is_named(typed, small, tmp_path, content, reason):
    rung = tmp_path / "damaged" / "rung_0" / "seed_0"
    (rung / ".hydra").mkdir(parents=True)
    (rung / ".hydra" / "config.yaml").write_text(content)
    result = typed("ladder", *small, "out=damaged")
    assert_refused(
        result, f"config.yaml {reason}", f": remove {rung}, or type out=<another folder>"
    )
    assert "start a new run" not in result[2]
