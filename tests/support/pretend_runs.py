"""Trainings and samples on the device of pretend_device.py, beside those on the CPU."""

import csv
import importlib
import sys
import tempfile
from contextlib import redirect_stdout
from functools import cache
from pathlib import Path
from typing import Any

import lightning as L
import torch

from diffusion_lab import cli, compose_config, train
from diffusion_lab.callbacks import finite_loss
from diffusion_lab.config.instantiate import build
from diffusion_lab.data.value_range import ValueRange
from diffusion_lab.runs.load import Run
from diffusion_lab.training import build as parts
from tests.support.pretend_device import Device

THERE = torch.device("pretend:0")


def sampled(words: list[str], folder: Path, device: Device) -> bool:
    """Whether the device draws what the CPU draws."""
    cfg = compose_config(["data=fake", "network.width=8", "network.depth=1", *words], folder)
    torch.manual_seed(0)
    module = build(cfg.model).eval().requires_grad_(False)
    shape = (cfg.data.channels, cfg.data.image_size, cfg.data.image_size)
    run = Run(folder, {}, module, ValueRange(cfg.data.value_range), shape, "raw")
    scale = 2.0 if module.num_classes else 1.0
    drawn = []
    for where in (torch.device("cpu"), THERE):
        module.to(where)
        drawn.append(run.sample(3, sampler=build(cfg.sampler), guidance_scale=scale))
    return torch.equal(*drawn)


class EveryStep(L.Callback):
    """Notes what was copied and looked at by each step, the fetching of its batch included."""

    def __init__(self, device: Device) -> None:
        self.device, self.seen = device, [(0, 0)]

    def on_train_batch_end(self, *args: Any) -> None:
        self.seen.append((len(self.device.copies), len(self.device.looks)))

    def steps(self) -> list[dict[str, Any]]:
        pairs = zip(self.seen, self.seen[1:], strict=False)
        copies, looks = self.device.copies, self.device.looks
        return [{"copies": copies[a:b], "looks": looks[c:d]} for (a, c), (b, d) in pairs]


def trained(words: list[str], folder: Path, device: Device) -> dict[str, Any]:
    """What each step of a training there copied and looked at, and how far its losses are off."""
    losses, steps = [], []
    trainer_of = parts.build_trainer
    finite_loss._is_asynchronous = lambda where: where == THERE  # as on CUDA
    for where in (torch.device("cpu"), THERE):
        device.copies.clear()
        device.looks.clear()
        counter = EveryStep(device)

        def build_trainer(*args: Any, where: Any = where, counter: Any = counter) -> L.Trainer:
            trainer = trainer_of(*args)
            trainer.callbacks.append(counter)
            trainer.strategy._root_device = where
            trainer.strategy.accelerator.setup_device = lambda device: None
            return trainer

        parts.build_trainer = build_trainer
        cfg = compose_config(["trainer.accelerator=cpu", *words], folder / where.type)
        train(cfg)
        with (folder / where.type / "losses.csv").open() as file:
            losses.append(torch.tensor([float(row["loss"]) for row in csv.DictReader(file)]))
        steps.append(counter.steps())
    off = ((losses[0] - losses[1]) / losses[0]).abs().max().item()
    return {"steps": steps[1], "off": off}


RUNS = tempfile.TemporaryDirectory()


@cache
def run_of(model: str) -> Path:
    """A run of few steps, trained on the CPU."""
    words = ["trainer.accelerator=cpu", "data=fake", "data.num_images=64", "data.val_size=16"]
    words += [f"model={model}", "network=unet_fast", "network.width=8", "network.depth=1"]
    words += ["model.num_classes=10"]
    folder = Path(RUNS.name, model)
    train(compose_config([*words, "callbacks=minimal", "trainer.max_epochs=1"], folder))
    return folder


def commanded(words: list[str], folder: Path, device: Device) -> bool:
    """Type a command, `<name> <model> <words>`, whose device is there; True if it did its work."""
    name, model, *more = words
    module = importlib.import_module(f"diffusion_lab.commands.{name}")
    if hasattr(module, "__path__"):
        module = importlib.import_module(f"{module.__name__}.command")
    module.choose_device = lambda word: THERE
    sys.argv = [f"{name}.py", f"run={run_of(model)}", *more, f"out={folder / 'made'}"]
    with redirect_stdout(sys.stderr):
        getattr(cli, name)()
    return any((folder / "made").iterdir())
