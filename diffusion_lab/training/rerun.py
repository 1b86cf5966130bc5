"""Repeat a run from its saved configuration and compare both runs bit for bit."""

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig

from diffusion_lab.runs.newest_checkpoint import newest_checkpoint
from diffusion_lab.runs.state import check_repeatable, read_record
from diffusion_lab.training.resume import restore_settings
from diffusion_lab.training.train import train


def differences(a: Any, b: Any, where: str = "") -> Iterator[str]:
    """Yield one line for each difference between two nested structures of values and tensors.

    A line begins with the path of keys to the difference, which starts with `where`.
    """
    if isinstance(a, dict) and isinstance(b, dict):
        for key in sorted(a.keys() | b.keys(), key=str):
            if key not in a or key not in b:
                yield f"{where}/{key} is in one run only"
            else:
                yield from differences(a[key], b[key], f"{where}/{key}")
    elif isinstance(a, list | tuple) and isinstance(b, list | tuple) and len(a) == len(b):
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            yield from differences(x, y, f"{where}/{i}")
    elif isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        if not torch.equal(a, b):
            yield where
    elif a != b:
        yield f"{where}: {str(a)[:100]} != {str(b)[:100]}"


def rerun(first: Path, cfg: DictConfig, trust: Sequence[str]) -> list[str]:
    """Repeat the training of the run folder `first` in the folder of `cfg`; return differences.

    Returns one line for each difference between the two runs, none if all bits are equal. The
    configuration may name only parts of this project and of the packages in `trust`. Raises
    UserError for a run with a time limit, whose number of steps cannot be repeated.
    """
    content = newest_checkpoint(first).content
    ended = content["config"]["trainer"]  # a resumed start may have raised the limits
    cfg.trainer.max_epochs, cfg.trainer.max_steps = ended["max_epochs"], ended["max_steps"]
    check_repeatable(first, ended.get("max_time"))
    train(restore_settings(cfg, content), trust=trust)
    return compare_runs(first, Path(cfg.paths.output_dir))


def compare_runs(first: Path, second: Path) -> list[str]:
    """Return the differences in data, losses and weights of two run folders, one per line."""
    a, b = (_content(run) for run in (first, second))
    lines = list(differences(a["data"], b["data"], "data"))
    for step, (x, y) in enumerate(zip(a["losses"], b["losses"], strict=False)):
        if x != y:
            lines.append(f"losses from step {step} on: {x} != {y}")
            break
    if len(a["losses"]) != len(b["losses"]):
        lines.append(f"steps: {len(a['losses'])} != {len(b['losses'])}")
    return [*lines, *differences(a["weights"], b["weights"], "weights")]


def _content(run: Path) -> dict[str, Any]:
    state = newest_checkpoint(run).content
    with (run / "losses.csv").open() as file:
        losses = [row["loss"] for row in csv.DictReader(file)]
    weights: dict[str, Any] = {**state["state_dict"], **state.get("ema", {})}
    return {"losses": losses, "weights": weights, "data": read_record(run).get("data")}
