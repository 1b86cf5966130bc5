"""The checks for a GPU, in small sizes on this CPU, so that they work when one is at hand."""

import json
import os
import signal
import subprocess
import sys

import pytest
import torch

from tests.gpu_check.place import FAILED, OK, Check, Place, Row, goal
from tests.gpu_check.runner import perform, report, run
from tests.support.forked import ROOT
from tests.support.processes import wait_until

ABOUT = {"device": "a card", "driver": "1", "python": "3", "commit": "c", "seconds": 1.0}


@pytest.fixture
def place(tmp_path):
    return Place(torch.device("cpu"), True, tmp_path, full=False)


@pytest.fixture
def told(tmp_path, monkeypatch, capfd):
    """The checks in this process, as `python -m tests.gpu_check` runs them: (code, out, err)."""
    before = signal.getsignal(signal.SIGTERM)

    def told(*words):
        monkeypatch.setattr(sys, "argv", ["gpu_check", "--out", str(tmp_path), *words])
        with pytest.raises(SystemExit) as end:
            run()
        return end.value.code, *capfd.readouterr()

    yield told
    signal.signal(signal.SIGTERM, before)


@pytest.mark.exhaustive
@pytest.mark.slow
def test_everything_in_small(tmp_path, told):
    code, out, err = told("--tiny", "--minutes", "60")
    assert code == 0, out + err
    record = json.loads((tmp_path / "gpu_check.json").read_text())
    verdicts = [row["verdict"] for row in record["rows"]]
    assert len(verdicts) > 20 and FAILED not in verdicts and verdicts.count(OK) > 12
    lines = (tmp_path / "gpu_check.md").read_text().splitlines()
    assert "torch" in lines[0] and len(lines) == 4 + len(verdicts)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so_in_one_line(told):
    code, _, _ = told()
    assert code.startswith("error: torch") and "--tiny" in code  # which Python prints, and exits 1
    assert len(code.splitlines()) == 1


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--only", "nonsense"], "no check has such a word"),
        (["--minutes", "0"], "expected a number above 0"),
        (["--minutes", "nan"], "expected a number above 0"),
        (["--out", "/proc/x"], "cannot be written"),
    ],
)
def test_what_cannot_be_meant_is_refused(words, says, told):
    code, out, err = told("--tiny", *words)
    assert code == 2 and out == ""
    assert says in err.splitlines()[-1]


@pytest.mark.slow
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
    out, err = process.communicate(timeout=600)
    assert process.returncode == 130 and "interrupted" in err and FAILED not in out
    with pytest.raises(ProcessLookupError):
        wait_until(lambda: os.killpg(process.pid, 0) is not None, seconds=300)
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
