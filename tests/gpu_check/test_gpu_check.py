"""The checks for a GPU, in small sizes on this CPU, so that they work when one is at hand."""

import json
import os
import signal
import subprocess
import sys

import pytest
import torch

from tests.gpu_check.place import FAILED, OK, Check, Place, Row, goal
from tests.gpu_check.runner import perform, report
from tests.support.forked import ROOT
from tests.support.processes import wait_until

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


def checked(*words):
    command = [sys.executable, "-m", "tests.gpu_check", *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so_in_one_line(tmp_path):
    process = checked("--out", str(tmp_path))
    assert process.returncode == 1
    assert process.stderr.startswith("error: torch") and "--tiny" in process.stderr
    assert len(process.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--only", "nonsense"], "no check has such a word"),
        (["--minutes", "0"], "expected a number above 0"),
        (["--minutes", "nan"], "expected a number above 0"),
        (["--out", "/proc/x"], "cannot be written"),
    ],
)
def test_what_cannot_be_meant_is_refused(words, says):
    process = checked("--tiny", *words)
    assert process.returncode == 2 and process.stdout == ""
    assert says in process.stderr.splitlines()[-1] and "Traceback" not in process.stderr


def test_ctrl_c_ends_it_and_its_processes(tmp_path):
    command = [sys.executable, "-m", "tests.gpu_check", "--tiny", "--out", str(tmp_path), "--only"]
    process = subprocess.Popen(
        [*command, "killed", "batches"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert "bit for bit" in process.stdout.readline()  # the others go on
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130 and "interrupted" in err and FAILED not in out
    with pytest.raises(ProcessLookupError):
        wait_until(lambda: os.killpg(process.pid, 0) is not None, seconds=30)
    assert "bit for bit" in (tmp_path / "gpu_check.md").read_text()


def test_a_check_that_fails_is_a_row(place, tmp_path, monkeypatch):
    def work(place):
        yield Row("first", "good")
        raise AssertionError("2 tensors differ")

    monkeypatch.setattr("tests.gpu_check.place.BESIDE", [Check("tensors", 1, work)])
    perform(place, Check("tensors", 1, work), lambda: None)
    assert [row.verdict for row in place.all_rows()] == [OK, FAILED]
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
