"""Mistyped names: what was probably meant, soon, and without an import of torch."""

import json
import subprocess
import sys

import pytest

from diffusion_lab.errors import near, unknown_name

PROGRAM = """
import contextlib, io, json, sys, time
from diffusion_lab import cli
results = []
for line in json.load(sys.stdin):
    name, *sys.argv[1:] = line.split()
    began, code, err = time.process_time(), 0, io.StringIO()
    with contextlib.redirect_stderr(err):
        try:
            getattr(cli, name)()
        except SystemExit as exit:
            code = exit.code
    seconds = time.process_time() - (began if results else 0)  # the first with all imports
    results.append([code, err.getvalue(), seconds, "torch" in sys.modules])
print(json.dumps(results))
"""
EARLY = [
    ("train model=flwo", "model=flwo is unknown: did you mean flow?"),
    ("train model=zzz", "model=zzz is unknown: choose from basic_unet, ddpm, edm, flow"),
    ("train sampler=huen", "did you mean heun?"),
    ("train trainer.max_epoch=3", "did you mean trainer.max_epochs=3?"),
    ("train optimizer.learningrate=3", "did you mean optimizer.lr=3?"),
    ("train modle=flow", "did you mean model=flow?"),
    ("train ++sede=3", "sede is unknown: did you mean seed?"),
    ("train trainer.max_epochs=0", "trainer.max_epochs=0 leaves nothing to train"),
    ("train trainer.max_time=soon", "trainer.max_time=soon: expected"),
    ("train seed=-1", "seed=-1: expected"),
    ("train teacher.run=nowhere", "teacher.run=nowhere is no folder"),
    ("train init_from=x teacher.run=y", "each provide the network: leave out one of them"),
    ("train init_from=nowhere", "init_from=nowhere does not exist"),
    ("train resume=nowhere", "resume=nowhere is no run folder"),
    ("sample run=nowhere", "run=nowhere is no folder"),
    ("evaluate run=.", "run=. has no checkpoints/last.ckpt"),
    ("export run=nowhere out=x", "run=nowhere is no folder"),
    ("compare run=x", "run is unknown: did you mean runs=x?"),
]


@pytest.mark.slow
def test_a_mistake_that_needs_no_torch_is_told_without_it(tmp_path):
    process = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        input=json.dumps([line for line, _ in EARLY]),
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=True,
    )
    results = json.loads(process.stdout)
    for (line, told), (code, err, seconds, imported) in zip(EARLY, results, strict=True):
        assert code == 2, line
        assert told in err and err.count("\n") == 1
        # of the processor: this machine may be busy with other tests
        assert seconds < 2 and not imported, line
    assert not list(tmp_path.rglob("*.yaml"))


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (
            "train model=edm noise_schedule.spacing=karas",
            "noise_schedule.spacing=karas is unknown: did you mean karras?",
        ),
        ("train model=ddpm noise_schedule.beta_schedule=sigmoidal", "did you mean sigmoid?"),
        ("train sampler=ddim sampler.timestep_spacing=trail", "did you mean trailing?"),
        ("train data.source=ful", "data.source=ful is unknown: did you mean full?"),
        ("train data.value_range=zero", "did you mean zero_one?"),
        ("benchmark parts=overheads", "parts=overheads is unknown: did you mean overhead?"),
        ("benchmark parts=zzz", "parts=zzz is unknown: choose from data, basic_unet"),
    ],
)
def test_a_mistyped_value_is_told_what_it_resembles(typed, line, told):
    code, _, err = typed(*line.split())
    assert code == 2 and told in err and err.count("\n") == 1


def test_a_class_that_does_not_take_a_key_says_which_it_takes(typed):
    code, _, err = typed("train", "+optimizer.weight_decy=0.1", "data=fake")
    assert code == 2 and "did you mean optimizer.weight_decay" in err
    code, _, err = typed("train", "+optimizer.zzz=0.1", "data=fake")
    assert code == 2 and "Adam takes ['amsgrad'," in err


@pytest.mark.parametrize(
    ("name", "known", "meant"),
    [
        ("flwo", ["flow", "edm"], ["flow"]),
        ("Heun", ["heun", "ddim"], ["heun"]),
        ("solver", ["dpm_solver", "ddim"], ["dpm_solver"]),
        ("zzz", ["heun", "ddim"], []),
    ],
)
def test_near(name, known, meant):
    assert near(name, known) == meant
    line = unknown_name("sampler", name, known)
    assert ("choose from heun, ddim" in line) == (not meant)
