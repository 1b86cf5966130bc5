"""README.md: the commands compose, and the tables name what there is."""

import re
import shlex

import pytest

from diffusion_lab import compose_config
from tests.forked import ROOT

README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```bash\n(.*?)```", README, re.DOTALL)
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
