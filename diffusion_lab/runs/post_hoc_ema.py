"""Reconstruct an EMA of any width from a run's snapshots (post-hoc EMA, Karras et al. 2024)."""

import logging
import re
from pathlib import Path

import torch
from torch import Tensor

from diffusion_lab.errors import UserError
from diffusion_lab.optim.power_function_ema import SNAPSHOTS, blend_weights, check_width
from diffusion_lab.system.system_errors import no_memory

log = logging.getLogger(__name__)

PREFIX = "posthoc:"
POOR_FIT = 0.1
"""Relative error of the reconstructed averaging profile above which a warning is logged."""


def snapshot_steps(run_dir: Path) -> list[int]:
    """Return the optimizer steps at which snapshots were saved, in ascending order."""
    names = (path.stem for path in (run_dir / SNAPSHOTS).glob("step_*.pt"))
    return sorted(int(name.removeprefix("step_")) for name in names)


def blend_snapshots(run_dir: Path, weights: str, newest: int) -> dict[str, Tensor]:
    """Reconstruct the EMA for `weights`, "posthoc:<width>" or "posthoc:<width>@<step>".

    Combines all snapshots up to <step>. Without @<step>, all snapshots up to step `newest` are
    combined. Returns float32 parameters by name. Raises UserError for a width or step that is not
    available.
    """
    match = re.fullmatch(r"posthoc:(\d*\.?\d+)(?:@(\d+))?", weights)
    if match is None:
        raise UserError(
            f"weights={weights}: expected posthoc:<width> or posthoc:<width>@<step>, "
            "for example posthoc:0.1"
        )
    width = float(match[1])
    check_width(width, f"weights={weights}")
    steps = snapshot_steps(run_dir)
    if not steps:
        raise UserError(
            f"weights={weights}: {run_dir} has no {SNAPSHOTS}/: train with callbacks=post_hoc_ema"
        )
    reached = [step for step in steps if step <= newest]
    if match[2] is None and not reached:
        raise UserError(
            f"weights={weights}: the first snapshot, of step {steps[0]}, is later than the "
            f"checkpoint, of step {newest}: use a later checkpoint"
        )
    step = int(match[2]) if match[2] else reached[-1]
    if step not in steps:
        raise UserError(
            f"weights={weights}: there is no snapshot of step {step}: choose from steps "
            f"{', '.join(map(str, steps))}"
        )
    return _blend(run_dir, [s for s in steps if s <= step], width)


def _blend(run_dir: Path, steps: list[int], width: float) -> dict[str, Tensor]:
    """Return the EMA of a width as a linear combination of the snapshots at `steps`.

    The snapshots are read one at a time, because all of them may not fit into memory.
    """
    paths = [run_dir / SNAPSHOTS / f"step_{step:08d}.pt" for step in steps]
    widths = list(_read(paths[-1]))
    profiles = [(float(step), tracked) for step in steps for tracked in widths]
    coefficients, misfit = blend_weights(profiles, (float(steps[-1]), width))
    if misfit > POOR_FIT:
        log.warning(
            "%d snapshots approximate width %g only to within %.0f %%: a width nearer to %s fits "
            "better",
            len(steps),
            width,
            100 * misfit,
            " or ".join(f"{tracked:g}" for tracked in widths),
        )
    blended: dict[str, Tensor] = {}
    for path, row in zip(paths, coefficients.reshape(len(paths), len(widths)), strict=True):
        averages = _read(path)
        if list(averages) != widths:
            raise UserError(
                f"{path} has averages of widths {list(averages)}: expected {widths}, as in the "
                "last snapshot; move the file away to use the other snapshots"
            )
        for tracked, coefficient in zip(widths, row, strict=True):
            for name, value in averages[tracked].items():
                part = value.double() * coefficient
                blended[name] = blended[name] + part if name in blended else part
    return {name: value.float() for name, value in blended.items()}


def _read(path: Path) -> dict[float, dict[str, Tensor]]:
    try:
        averages: dict[float, dict[str, Tensor]] = torch.load(
            path, map_location="cpu", weights_only=True
        )["averages"]
        return averages
    except Exception as error:
        if no_memory(error):
            raise
        raise UserError(
            f"{path} is damaged or was not written by this project ({type(error).__name__}): move "
            "the file away to use the other snapshots"
        ) from error
