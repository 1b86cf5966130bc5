"""The checks for a GPU, in small sizes on this CPU, so that they work when one is at hand."""

import json
import subprocess
import sys

import pytest
import torch

from tests.forked import ROOT
from tests.gpu_check.__main__ import perform, report
from tests.gpu_check.place import FAILED, OK, Check, Place, Row, goal

ABOUT = {"device": "a card", "driver": "1", "python": "3", "commit": "c", "seconds": 1.0}


@pytest.fixture
def place(tmp_path):
    return Place(torch.device("cpu"), True, tmp_path, full=False)


@pytest.mark.slow
def test_everything_in_small(tmp_path):
    command = [sys.executable, "-m", "tests.gpu_check", "--tiny", "--out", str(tmp_path)]
    process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900)
    assert process.returncode == 0, process.stdout + process.stderr
    record = json.loads((tmp_path / "gpu_check.json").read_text())
    verdicts = [row["verdict"] for row in record["rows"]]
    assert len(verdicts) > 30 and FAILED not in verdicts and verdicts.count(OK) > 12
    lines = (tmp_path / "gpu_check.md").read_text().splitlines()
    assert "torch" in lines[0] and len(lines) == 4 + len(verdicts)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so_in_one_line():
    command = [sys.executable, "-m", "tests.gpu_check"]
    process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert process.returncode == 1
    assert process.stderr.startswith("error: torch") and "--tiny" in process.stderr
    assert len(process.stderr.splitlines()) == 1


def test_a_check_that_fails_is_a_row(place, tmp_path):
    def work(place):
        yield Row("first", "good")
        raise AssertionError("2 tensors differ")

    place.rows = perform(place, Check("tensors", 1, work))
    assert [row.verdict for row in place.rows] == [OK, FAILED]
    report(place, tmp_path, ABOUT | {"versions": {"torch": "2"}})
    assert "| tensors | AssertionError: 2 tensors differ |  | FAILED |" in (
        (tmp_path / "gpu_check.md").read_text()
    )
    assert (
        "Traceback" in json.loads((tmp_path / "gpu_check.json").read_text())["rows"][1]["details"]
    )


def test_goals_are_judged_on_a_gpu_alone(place):
    assert goal(place, "time", 20, "s", 15, at_least=False).verdict == "not judged"
    place.device = torch.device("cuda")
    assert goal(place, "time", 20, "s", 15, at_least=False).verdict == "missed"
    assert goal(place, "time", 15, "s", 15, at_least=False).verdict == OK
    assert goal(place, "rate", 7.9, "times", 8, at_least=True).verdict == "missed"
