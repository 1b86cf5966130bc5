"""Commands as a person types them, and what a machine may do to them."""

import json
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tests.gpu_check.place import (
    BESIDE,
    SKIPPED,
    SMALL,
    Place,
    Process,
    Row,
    check,
    needs_a_gpu,
    words_of,
)

LOAD = """
import sys, torch
from diffusers import DiffusionPipeline
pipeline = DiffusionPipeline.from_pretrained(sys.argv[1], trust_remote_code=True).to(sys.argv[2])
pipeline.set_progress_bar_config(disable=True)
images = pipeline(batch_size=4, num_inference_steps=2, output_type="np").images
print(bool(torch.as_tensor(images).isfinite().all()), images.shape)
"""
"""What a person types who has diffusers alone: an exported folder and a device."""
HOOK = "{{_target_: tests.gpu_check.hooks.{}}}"


@check(BESIDE, "the user's command, then evaluate, sample, export and load", 120)
def users_command(place: Place) -> Iterator[Row]:
    """`python scripts/train.py model=basic_unet trainer.accelerator=gpu`, as typed."""
    small = words_of(place, [*SMALL, "callbacks.samples=null", "callbacks.figures=null"])
    typed = ("model=basic_unet", place.accelerator)
    began = time.perf_counter()
    run = place.command("train", *typed, *small).path
    seconds = time.perf_counter() - began
    record = json.loads((run / "metrics.json").read_text())
    assert record["status"] == "finished" and record["device"].startswith(place.device.type)
    loss = record["metrics"]["val/loss"]
    what = f"python scripts/train.py {' '.join(typed)}"
    yield Row(what, f"{record['steps']} steps, val/loss {loss:.4f}, {seconds:.0f} s in all")

    device = place.accelerator.removeprefix("trainer.")
    named = (f"run={run}", device, "sampler.num_steps=5")
    if not place.tiny:  # made-up images have no extractor
        scored = place.command("evaluate", *named, "num_samples=10000", "seeds=1")
        assert scored.path.exists()
        fid = re.search(r"fid\D+([\d.]+)", scored.out, re.IGNORECASE)
        assert fid is not None, scored.out
        yield Row("scripts/evaluate.py of 10,000 images", f"FID {fid[1]} with five steps")
    drawn = place.command("sample", *named, "num_samples=8").path
    assert (drawn / "samples.npz").is_file()
    exported = place.folder() / "exported"
    assert place.command("export", f"run={run}", f"out={exported}").path == exported

    # in a process of its own: random streams are this process's, and other checks count on them
    loads = [sys.executable, "-c", LOAD, str(exported), str(place.device)]
    loaded = subprocess.run(loads, capture_output=True, text=True, timeout=120)
    assert loaded.stdout == "True (4, 28, 28, 1)\n", loaded.stdout + loaded.stderr[-1500:]
    yield Row("scripts/sample.py; scripts/export.py, loaded and drawn from there", "ok")


@check(BESIDE, "killed and resumed, deterministic", 110)
def killed_exactly(place: Place) -> Iterator[Row]:
    """No difference in any tensor."""
    return killed(place, "trainer.deterministic=true", exact=True)


@check(BESIDE, "killed and resumed", 110)
def killed_as_it_comes(place: Place) -> Iterator[Row]:
    """The size of the difference; a CPU has none."""
    return killed(place, "trainer.deterministic=null", exact=not place.on_gpu)


def killed(place: Place, word: str, *, exact: bool) -> Iterator[Row]:
    """SIGKILL and resume= in turn, and a training that was never stopped."""
    kills = 1 if place.tiny else 3
    size = words_of(
        place,
        ["data.num_images=80", "data.batch_size=2", "network.width=8", "network.depth=1"],
        ["data.num_images=8000", "data.batch_size=64", "network=unet2d"],
    )
    words = [place.accelerator, "data=fake", "data.val_size=16", "model=flow", *size, word]
    words += ["lr_scheduler=cosine", "callbacks=minimal", "callbacks.last.every_seconds=0.2"]
    words += [f"trainer.max_epochs={5 * kills}"]
    whole, broken = place.folder() / "whole", place.folder() / "broken"
    reference = place.start("train", *words, f"hydra.run.dir={whole}")
    process = place.start("train", *words, f"hydra.run.dir={broken}")
    try:
        for kill in range(kills):
            kill_after_a_save(process, broken / "checkpoints" / "last.ckpt", kill)
            process = place.start("train", f"resume={broken}")
        for each in (process, reference):
            _, err = each.communicate(timeout=240)
            assert each.returncode == 0, err[-1500:]
    finally:
        process.kill()
        reference.kill()
    a, b = (torch.load(run / "checkpoints/last.ckpt", weights_only=True) for run in (whole, broken))
    keys = ("state_dict", "ema", "optimizer_states")
    off = [
        (x.double() - y.double()).abs().max().item()
        for key in keys
        for x, y in pairs(a[key], b[key])
        if x.numel()
    ]
    differing = sum(value != 0 for value in off)
    found = f"{differing} of {len(off)} tensors differ, by up to {max(off):.3g}"
    assert a["global_step"] == b["global_step"]
    assert not (exact and differing), found
    often = "once" if kills == 1 else f"{kills} times"
    what = f"killed {often} in {a['global_step']} steps and resumed, {word}"
    yield Row(what, found, "no difference" if exact else "")


def kill_after_a_save(process: Process, checkpoint: Path, number: int) -> None:
    """Send SIGKILL up to a fifth of a second after the process has saved."""
    before, until = saved_at(checkpoint), time.monotonic() + 120
    while process.poll() is None and saved_at(checkpoint) == before:
        assert time.monotonic() < until, "no checkpoint in two minutes"
        time.sleep(0.01)
    time.sleep(random.Random(number).uniform(0.0, 0.2))
    assert process.poll() is None, f"it ended before kill {number + 1}: {process.communicate()}"
    process.send_signal(signal.SIGKILL)
    process.communicate()


def saved_at(checkpoint: Path) -> int | None:
    """When it was written, None if it never was."""
    return checkpoint.stat().st_mtime_ns if checkpoint.exists() else None


def pairs(a: Any, b: Any) -> Iterator[tuple[Tensor, Tensor]]:
    """The tensors of two nests that are built alike."""
    if isinstance(a, Tensor):
        yield a, b
    elif isinstance(a, dict | list | tuple):
        assert len(a) == len(b)
        for key in a if isinstance(a, dict) else range(len(a)):
            yield from pairs(a[key], b[key])


@check(BESIDE, "a poisoned batch", 60)
def poisoned(place: Place) -> Iterator[Row]:
    """FiniteLoss stops the run, and nothing that is saved has seen the step."""
    run = place.folder() / "run"
    words = [place.accelerator, *SMALL, "callbacks=minimal", "model=flow", "trainer.max_epochs=9"]
    spoils = f"+callbacks.poison={HOOK.format('Poison')}"
    ended = place.command("train", *words, spoils, f"hydra.run.dir={run}")
    line = ended.refused(3, "not finite", "debug=replay")
    state = torch.load(run / "checkpoints/last.ckpt", weights_only=True)
    kept = [state["state_dict"], state["ema"], state["optimizer_states"]]
    assert all(tensor.isfinite().all() for tensor, _ in pairs(kept, kept))
    assert (run / "anomaly.pt").is_file()
    yield Row("a poisoned batch", "exit 3, weights and averages clean, anomaly.pt", details=line)


@check(BESIDE, "out of memory in training", 60)
def out_of_memory(place: Place) -> Iterator[Row]:
    """One line and exit code 2."""
    what = "out of memory in training"
    if not place.on_gpu:
        yield needs_a_gpu(what)
        return
    words = ["data=fake", "data.batch_size=512", "model=unet2d", "callbacks=minimal"]
    little = f"+callbacks.little={HOOK.format('LittleMemory')}"
    line = place.command("train", place.accelerator, *words, little).refused(
        2, "out of memory", "data.batch_size"
    )
    yield Row(what, "one line, exit 2", details=line)


@check(BESIDE, "the strategy of several processes", 60)
def one_of_several(place: Place) -> Iterator[Row]:
    """With one process, over nccl on a GPU and gloo on a CPU."""
    words = ["trainer.strategy=ddp", "trainer.devices=1", "model=flow", "callbacks=minimal"]
    says = f"+callbacks.says={HOOK.format('Backend')}"
    ended = place.command("train", place.accelerator, *SMALL, *words, "trainer.max_epochs=1", says)
    assert ended.path
    backend = "nccl" if place.on_gpu else "gloo"
    assert f"backend {backend}" in ended.out, ended.out
    yield Row("trainer.strategy=ddp trainer.devices=1", backend)


@check(BESIDE, "FID in training", 60)
def fid_in_training(place: Place) -> Iterator[Row]:
    """callbacks=fid, which also chooses the best checkpoint."""
    run = place.folder() / "run"
    words = ["model=flow", "callbacks=fid", "monitor=val/fid", "trainer.max_epochs=1"]
    data = ["data.source=bundled", "data.val_size=100"]
    few = ["callbacks.fid.num_samples=100", "trainer.limit_train_batches=3", "network.width=8"]
    few += ["callbacks.samples=null", "callbacks.figures=null", "trainer.limit_val_batches=1"]
    ended = place.command(
        "train", place.accelerator, *words, *data, *words_of(place, few), f"hydra.run.dir={run}"
    )
    assert ended.path == run
    fid = json.loads((run / "metrics.json").read_text())["metrics"]["val/fid"]
    yield Row("callbacks=fid monitor=val/fid", f"FID {fid:.2f} after an epoch")


@check(BESIDE, "the compiler with CUDA graphs", 120)
def cuda_graphs(place: Place) -> Iterator[Row]:
    """Its cost and its gain, as the run says them."""
    words = ["trainer.compile=true", "trainer.compile_mode=reduce-overhead"]
    if place.tiny:
        yield Row(" ".join(words), "takes minutes on a CPU", verdict=SKIPPED)
        return
    more = ["model=flow", "data=fake", "callbacks=minimal", "trainer.max_epochs=1"]
    for batches in (1, 2):  # gradients that are added up must outlive a graph's next run
        adds = f"trainer.accumulate_grad_batches={batches}"
        ended = place.command("train", place.accelerator, *words, *more, adds)
        assert ended.path
        lines = (ended.out + ended.err).splitlines()
        said = next(line for line in lines if "compiled in" in line)
        yield Row(" ".join([*words, adds]), said[said.index("compiled in") :])
