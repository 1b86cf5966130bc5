"""README.md and docs/gpu.md: the commands compose, and the tables name what there is."""

import re
import shlex

import pytest
from omegaconf import OmegaConf

from diffusion_lab import compose_config
from tests.gpu_check import commands, correctness, speed  # noqa: F401  (they add their checks)
from tests.gpu_check.place import ALONE, BESIDE, HERE
from tests.support.forked import ROOT

README = (ROOT / "README.md").read_text()
GPU = (ROOT / "docs" / "gpu.md").read_text()
BLOCKS = re.findall(r"```bash\n(.*?)```", README + GPU, re.DOTALL)
LINES = [line for block in BLOCKS for line in block.splitlines() if line.startswith("python ")]
ROWS = {
    group: row
    for row in re.findall(r"^\| `\w+`.*\|$", README, re.MULTILINE)
    for group in re.findall(r"`(\w+)`", row.split("|")[1])
    if (ROOT / "configs" / group).is_dir()
}


def test_there_is_something_to_look_at():
    assert len(LINES) > 40 and len(ROWS) == 15


@pytest.mark.parametrize("line", LINES)
def test_a_command_names_a_script_and_keys_that_there_are(line):
    words = shlex.split(line, comments=True)
    if words[1] == "-m":
        return
    assert (ROOT / words[1]).is_file()
    if words[1] != "scripts/train.py" or {"-m", "--help"} & set(words):
        return
    taken_up = ("resume=", "rerun=", "replay=", "debug=replay")
    given = [word for word in words[2:] if not word.startswith(taken_up)]
    compose_config([re.sub(r"<[^>]*>", "x", word) for word in given])


@pytest.mark.parametrize("group", ROWS)
def test_a_row_names_every_word_of_its_group_and_no_other(group):
    groups = [other for other in ROWS if ROWS[other] == ROWS[group]]
    there = {p.stem for other in groups for p in (ROOT / "configs" / other).glob("*.yaml")}
    named = set(re.findall(r"`(\w+)`", ROWS[group].split("|", 2)[2]))
    settings = {"adamw_lr", "num_steps"}
    assert named - settings == there


def test_the_settings_for_a_gpu_have_the_defaults_that_are_named():
    rows = re.findall(r"^\| `([a-z0-9_.]+)` \| `(\S+)`.*\|$", GPU, re.MULTILINE)
    assert len(rows) == 8
    cfg = compose_config()
    for setting, default in rows:
        value = OmegaConf.select(cfg, setting)
        assert {True: "true", False: "false", None: "null"}.get(value, value) == default, setting


def test_what_was_found_on_a_gpu_is_told_for_every_check():
    results = (ROOT / "RESULTS.md").read_text()
    told = results.split("## On a GPU")[1].split("\n## ")[0]
    for check in (*BESIDE, *HERE, *ALONE):
        assert f"| {check.what} |" in told, check.what


def test_make_targets_that_are_named_are_there():
    makefile = (ROOT / "Makefile").read_text()
    for target in set(re.findall(r"`make ([a-z-]+)", README + GPU)):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
