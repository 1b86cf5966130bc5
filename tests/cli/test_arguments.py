"""Arguments in any order and form: what is typed is taken, or one line says what to type."""

import random
import subprocess
import sys

import pytest
import yaml
from hydra._internal.utils import get_args_parser

from diffusion_lab.cli.arguments import bracket_lists, flags_first
from tests.cli.test_bad_input import assert_refused
from tests.conftest import TINY
from tests.support.forked import ROOT

# every command with two of its options
COMMANDS = {
    "benchmark": ("repeats=3", "seconds=2"),
    "compare": ("runs=a", "out=b"),
    "diagnose": ("run=a", "out=b"),
    "edit": ("edit=invert", "run=a"),
    "evaluate": ("run=a", "out=b"),
    "explain": ("model=flow", "seed=3"),
    "export": ("run=a", "out=b"),
    "ladder": ("num_samples=5", "out=b"),
    "likelihood": ("run=a", "out=b"),
    "sample": ("run=a", "out=b"),
    "tradeoff": ("run=a", "out=b"),
    "train": ("model=flow", "seed=3"),
    "train_extractor": ("version=a", "seed=3"),
}


def test_every_command_is_covered():
    assert {p.stem for p in (ROOT / "scripts").glob("*.py")} == COMMANDS.keys()


@pytest.mark.parametrize("name", COMMANDS)
def test_flags_may_stand_behind_and_between_the_options_of_every_command(name, typed):
    first, second = COMMANDS[name]
    expected = yaml.safe_load(typed(name, "--cfg", "job", first, second)[1])
    assert isinstance(expected, dict)
    for words in ([first, "--cfg", "job", second], [first, second, "-c", "job"]):
        code, out, err = typed(name, *words)
        assert code == 0, err
        assert yaml.safe_load(out) == expected
    code, out, err = typed(name, first, "--resolve", second, "--cfg=job")
    assert code == 0, err
    resolved = yaml.safe_load(out)
    assert isinstance(resolved.get("paths", {}).get("output_dir", ""), str)
    assert "${" not in out


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--model=ddpm"], ["--model=ddpm", "without dashes, model=ddpm"]),
        (["-model=ddpm"], ["without dashes, model=ddpm"]),
        (["--batch-size", "64"], ["--batch-size", "without dashes, batch_size=64"]),
        (["seed=1", "--nonsense"], ["--nonsense is no flag", "nonsense=<value>", "--multirun"]),
        (["--cfg", "everything"], ["--cfg", "everything", "'job'"]),
        (["--config-dir"], ["--config-dir", "expected one argument"]),
    ],
    ids=lambda value: " ".join(value),
)
def test_what_is_no_flag_is_told_in_one_line(name, words, cli_errors, typed):
    assert_refused(typed(name, *words), *cli_errors)


def test_flags_first_is_what_argparse_makes_of_any_order():
    """Against argparse's own parsing of intermixed arguments."""
    draw = random.Random(0)
    parts = [["--cfg", "job"], ["--config-dir", "a b"], ["-m"], ["--resolve"], ["-cn=x"]]
    parts += [["model=flow"], ["+a.b='--x'"], ["~c"], ["d=[1,2]"]]
    for _ in range(100):
        chosen = draw.sample(parts, draw.randint(1, len(parts)))
        words = [word for part in chosen for word in part]
        expected = get_args_parser().parse_intermixed_args(words)
        assert get_args_parser().parse_args(flags_first(words)) == expected
        assert flags_first(flags_first(words)) == flags_first(words)


def test_a_recipe_of_ones_own_behind_other_options(typed, tmp_path):
    folder = tmp_path / "my recipes" / "experiment"
    folder.mkdir(parents=True)
    (folder / "mine.yaml").write_text("# @package _global_\nseed: 77\n")
    words = ("model=flow", "--config-dir", str(folder.parent), "experiment=mine")
    code, out, err = typed("train", *words, "--cfg", "job")
    assert code == 0, err
    assert yaml.safe_load(out)["seed"] == 77


def test_quotes_around_a_list_change_nothing_but_for_paths():
    assert bracket_lists(["labels='1,2'"], ["labels"]) == ["labels=[1,2]"]
    assert bracket_lists(["labels=1,2"], ["labels"]) == ["labels=[1,2]"]
    assert bracket_lists(["labels=[1,2]", "seed=1,2"], ["labels"]) == ["labels=[1,2]", "seed=1,2"]
    assert bracket_lists(["runs='a,b'"], ["runs"], ["runs"]) == ["runs=['a,b']"]
    assert bracket_lists(["-m", "labels=1,2"], ["labels"]) == ["-m", "labels=1,2"]


def test_labels_in_quotes_are_drawn(typed, runs, tmp_path):
    run = f"run={runs['conditional']}"
    code, out, err = typed("sample", run, "labels='1,2'", "num_samples=2", f"out={tmp_path / 'o'}")
    assert code == 0, out + err


@pytest.mark.parametrize("value", ["", "0"])
def test_an_empty_wish_for_tracebacks_is_none(value, command):
    result = command("train", "nothing=1", HYDRA_FULL_ERROR=value, DIFFUSION_LAB_TRACEBACK=value)
    assert_refused((result.returncode, result.stdout, result.stderr), "nothing is unknown")
    result = command("sample", "run=nowhere", HYDRA_FULL_ERROR=value)
    assert_refused((result.returncode, result.stdout, result.stderr), "nowhere is no folder")


def test_tracebacks_for_those_who_want_them(command):
    for words in (["nothing=1"], ["--nothing=1"], ["resume=nowhere"]):
        assert "Traceback" in command("train", *words, HYDRA_FULL_ERROR="1").stderr


def test_the_module_of_the_commands_is_none():
    result = subprocess.run(
        [sys.executable, "-m", "diffusion_lab.cli"], capture_output=True, text=True, cwd=ROOT
    )
    cli_errors = (result.returncode, result.stdout, result.stderr)
    assert_refused(cli_errors, "diffusion-lab-train", *(n for n in COMMANDS if n != "train"))


@pytest.mark.parametrize(
    ("name", "words", "told"),
    [
        ("train", ["lr=0.1"], ["optimizer.lr=0.1"]),
        ("train", ["+lr=0.1"], ["did you mean optimizer.lr?"]),
        ("train", ["epochs=3"], ["trainer.max_epochs=3"]),
        ("train", ["batch_size=64"], ["data.batch_size=64"]),
        ("train", ["learning_rate=1"], ["optimizer.lr=1"]),
        ("train", ["device=cpu"], ["trainer.accelerator=cpu"]),
        ("train", ["steps=5"], ["trainer.max_steps=5", "sampler.num_steps=5"]),
        ("train", ["dataset=kmnist"], ["did you mean data=kmnist?"]),
        ("train", ["trainer.epochs=3"], ["did you mean trainer.max_epochs=3?"]),
        ("train", ["sampel=ddim"], ["did you mean sampler=ddim?"]),
        ("sample", ["run=a", "steps=3"], ["did you mean sampler.num_steps=3?"]),
        ("sample", ["run=a", "n=3"], ["did you mean num_samples=3?"]),
        ("evaluate", ["run=a", "num_sample=3"], ["did you mean num_samples=3?"]),
        (
            "train",
            ["-m", "sampler=ddim,ddpm", "sampler.clip_sample=false"],
            ["sampler.clip_sample is unknown", "-m", "++sampler.clip_sample=false"],
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else value,
)
def test_an_unknown_option_is_told_its_full_name(name, words, cli_errors, typed):
    assert_refused(typed(name, *words), "is unknown", *cli_errors)


@pytest.mark.parametrize("part", ["hydra", "all"])
def test_what_hydra_cannot_resolve_of_itself_is_told_in_one_line(part, typed):
    assert_refused(typed("train", "--cfg", part, "--resolve"))


def test_what_the_message_says_of_plus_plus_is_so(typed):
    words = ("sampler=ddim,ddpm", "++sampler.clip_sample=false", "model=flow", "network.width=8")
    code, _, err = typed("train", *TINY[:-2], "callbacks=none", "logger=[]", "-m", *words)
    assert code == 0, err


def test_a_run_in_place_of_a_pipeline_and_the_other_way_round(typed, runs, tmp_path):
    run = runs["stock"]
    given = typed("train", *TINY, "model=ddpm", f"init_from={run}")
    assert_refused(given, f"export.py run={run} out=", "init_from=<new folder>")
    given = typed("train", *TINY, "model=ddpm", f"init_from={run}/checkpoints/last.ckpt")
    assert_refused(given, f"export.py run={run} out=")
    assert_refused(typed("sample", f"pipeline={run}"), f"type run={run}")
    (tmp_path / "p").mkdir()
    (tmp_path / "p" / "model_index.json").write_text("{}")
    assert_refused(typed("sample", f"run={tmp_path / 'p'}"), f"pipeline={tmp_path / 'p'}")
