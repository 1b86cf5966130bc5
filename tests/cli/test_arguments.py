"""Command-line arguments in any order and form, and one line for those that are wrong."""

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
    tools = {"gallery", "race"}  # which take no overrides
    assert {p.stem for p in (ROOT / "scripts").glob("*.py")} == COMMANDS.keys() | tools


@pytest.mark.slow
@pytest.mark.parametrize("name", ["train", "edit", "evaluate", "ladder"])
def test_flags_may_stand_behind_and_between_overrides(name, typed):
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
    ("words", "expected"),
    [
        (["--model=ddpm"], ["--model=ddpm", "without dashes; type model=ddpm"]),
        (["-model=ddpm"], ["without dashes; type model=ddpm"]),
        (["--batch-size", "64"], ["--batch-size", "without dashes, batch_size=64"]),
        (["seed=1", "--nonsense"], ["--nonsense is no flag", "nonsense=<value>", "--multirun"]),
        (["--cfg", "everything"], ["--cfg", "everything", "'job'"]),
        (["--config-dir"], ["--config-dir", "expected one argument"]),
        (["-m", "--cfg", "job"], ["--multirun and --cfg cannot be combined", "out --multirun"]),
        (["--cfg=job", "--info"], ["--cfg and --info cannot be combined", "leave out --cfg"]),
        (["--resolve"], ["--resolve needs --cfg", "type --cfg job --resolve"]),
    ],
    ids=lambda value: " ".join(value),
)
def test_a_wrong_flag_gives_one_line(name, words, expected, typed):
    assert_refused(typed(name, *words), *expected)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name in ("train", "edit") else pytest.mark.slow)
        for name in ("train", "edit", "evaluate", "ladder", "export", "train_extractor")
    ],
)
def test_a_command_prints_its_help(name, typed):
    """Without any option, also where one is mandatory, such as edit=."""
    code, out, err = typed(name, "--help")
    assert code == 0, err
    script = f"python scripts/{name}.py"
    assert script in out and "type group=option" in out


@pytest.mark.slow
def test_help_of_one_edit_has_its_options(typed):
    code, out, err = typed("edit", "-h", "edit=inpaint")
    assert code == 0, err
    assert "\nmask: right\n" in out
    general = typed("edit", "--help")[1]
    assert "edit: ???" in general and "mask:" not in general
    assert "edit: image_to_image, inpaint, interpolate, invert" in general


def test_flags_first_equals_argparse_for_any_order():
    """Against argparse's own parsing of intermixed arguments."""
    random_choice = random.Random(0)
    modes = [[["-m"]], [["--cfg", "job"]], [["--cfg", "job"], ["--resolve"]]]
    parts = [["--config-dir", "a b"], ["-cn=x"]]
    parts += [["model=flow"], ["+a.b='--x'"], ["~c"], ["d=[1,2]"]]
    for _ in range(100):
        chosen = random_choice.sample(parts, random_choice.randint(1, len(parts)))
        chosen += random_choice.choice([[], *modes])
        random_choice.shuffle(chosen)
        words = [word for part in chosen for word in part]
        expected = get_args_parser().parse_intermixed_args(words)
        assert get_args_parser().parse_args(flags_first(words)) == expected
        assert flags_first(flags_first(words)) == flags_first(words)


def test_a_users_experiment_behind_other_options(typed, tmp_path):
    folder = tmp_path / "my recipes" / "experiment"
    folder.mkdir(parents=True)
    (folder / "mine.yaml").write_text("# @package _global_\nseed: 77\n")
    words = ("model=flow", "--config-dir", str(folder.parent), "experiment=mine")
    code, out, err = typed("train", *words, "--cfg", "job")
    assert code == 0, err
    assert yaml.safe_load(out)["seed"] == 77
    others = tmp_path / "others" / "experiment" / "mine.yaml"
    others.parent.mkdir(parents=True)
    others.write_text("# @package _global_\nseed: 78\n")
    words = ("model=flow", "--config-dir=others", "experiment=mine", "--cfg", "job")
    code, out, err = typed("train", *words)
    assert code == 0, err
    assert yaml.safe_load(out)["seed"] == 78  # nothing is left of the first command's folder


def test_quotes_around_a_list_matter_for_paths_only():
    assert bracket_lists(["labels='1,2'"], ["labels"]) == ["labels=[1,2]"]
    assert bracket_lists(["labels=1,2"], ["labels"]) == ["labels=[1,2]"]
    assert bracket_lists(["labels=[1,2]", "seed=1,2"], ["labels"]) == ["labels=[1,2]", "seed=1,2"]
    assert bracket_lists(["runs='a,b'"], ["runs"], ["runs"]) == ["runs=['a,b']"]
    assert bracket_lists(["-m", "labels=1,2"], ["labels"]) == ["-m", "labels=1,2"]


def test_labels_in_quotes_are_sampled(typed, runs, tmp_path):
    run = f"run={runs['conditional']}"
    code, out, err = typed("sample", run, "labels='1,2'", "num_samples=2", f"out={tmp_path / 'o'}")
    assert code == 0, out + err


@pytest.mark.slow
@pytest.mark.parametrize("value", ["", "0"])
def test_an_empty_traceback_variable_asks_for_no_traceback(value, command):
    result = command("train", "nothing=1", HYDRA_FULL_ERROR=value, DIFFUSION_LAB_TRACEBACK=value)
    assert_refused((result.returncode, result.stdout, result.stderr), "nothing is unknown")
    result = command("sample", "run=nowhere", HYDRA_FULL_ERROR=value)
    assert_refused((result.returncode, result.stdout, result.stderr), "nowhere is no folder")


@pytest.mark.slow
def test_hydra_full_error_shows_tracebacks(command):
    for words in (["nothing=1"], ["--nothing=1"], ["resume=nowhere"]):
        assert "Traceback" in command("train", *words, HYDRA_FULL_ERROR="1").stderr


def test_the_module_of_the_commands_is_not_a_command():
    result = subprocess.run(
        [sys.executable, "-m", "diffusion_lab.cli"], capture_output=True, text=True, cwd=ROOT
    )
    ended = (result.returncode, result.stdout, result.stderr)
    assert_refused(ended, "diffusion-lab-train", *(n for n in COMMANDS if n != "train"))


@pytest.mark.parametrize(
    ("name", "words", "expected"),
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
def test_an_unknown_option_gets_its_full_name_suggested(name, words, expected, typed):
    assert_refused(typed(name, *words), "is unknown", *expected)


@pytest.mark.parametrize("part", ["hydra", "all"])
def test_settings_of_hydra_that_do_not_resolve_give_one_line(part, typed):
    assert_refused(typed("train", "--cfg", part, "--resolve"))


def test_the_suggested_plus_plus_override_works(typed):
    words = ("sampler=ddim,ddpm", "++sampler.clip_sample=false", "model=flow", "network.width=8")
    code, _, err = typed("train", *TINY[:-2], "callbacks=none", "logger=[]", "-m", *words)
    assert code == 0, err


@pytest.mark.slow
def test_a_run_in_place_of_a_pipeline_and_vice_versa(typed, runs, tmp_path):
    run = runs["stock"]
    given = typed("train", *TINY, "model=ddpm", f"init_from={run}")
    assert_refused(given, f"export.py run={run} out=", "init_from=<new folder>")
    given = typed("train", *TINY, "model=ddpm", f"init_from={run}/checkpoints/last.ckpt")
    assert_refused(given, f"export.py run={run} out=")
    assert_refused(typed("sample", f"pipeline={run}"), f"type run={run}")
    (tmp_path / "p").mkdir()
    (tmp_path / "p" / "model_index.json").write_text("{}")
    assert_refused(typed("sample", f"run={tmp_path / 'p'}"), f"pipeline={tmp_path / 'p'}")
