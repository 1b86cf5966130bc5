"""scripts/edit.py: edit images with a trained run and write a figure of the results."""

import time
from collections.abc import Sequence
from typing import Any, cast

import torch
from matplotlib.figure import Figure
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from diffusion_lab import figures
from diffusion_lab.commands.edit.edits import EDITS, SHOWN, Edited
from diffusion_lab.commands.edit.input_images import read_images
from diffusion_lab.config.validate import validate
from diffusion_lab.errors import UserError
from diffusion_lab.runs.sampling_options import check_run, open_run
from diffusion_lab.sampling.progress import planned_work, times
from diffusion_lab.system.device import choose_device
from diffusion_lab.system.output import results_folder, save_arrays, write_json

_SIDE_BY_SIDE = 8  # images per row of the figure, if fewer than this number are edited
_LONGEST_NAME = 20


def edit(cfg: DictConfig) -> Edited:
    """Edit the images of images=; write edit.png, edit.npz and edit.json.

    Raises UserError for a mistake in the configuration, before anything is edited or written.
    """
    check_run(cfg)
    kind = EDITS[cfg.edit]
    validate(cfg, kind.schema)
    run = open_run(cfg)
    run.value_range.check_pixels("edit.py")
    try:
        run.module.noise_schedule.timesteps(cfg.num_steps)
    except UserError as error:  # the message names a sampler's option
        raise UserError(str(error).removeprefix("sampler.")) from error
    settings = cast(dict[str, Any], OmegaConf.to_container(cfg, resolve=True))
    names, pixels = read_images(settings["images"], run, **settings["paths"])
    work = kind(cfg, run, names, pixels)
    device = choose_device(cfg.accelerator)
    run.module.to(device)
    run.value_range.prepare(device)
    out = results_folder(cfg.out, run.dir / "edits")

    began = time.perf_counter()
    x0 = run.value_range.encode(pixels).to(run.module.device)
    line = f"{cfg.edit} of {times(len(pixels), 'image')} in {times(cfg.num_steps, 'step')} each"
    with planned_work(line, len(pixels)):
        edited = work(x0)
    edited.out = out
    seconds = time.perf_counter() - began
    figures.save_figure(edit_figure(edited, names), out / "edit.png")
    save_arrays(out / "edit.npz", original=edited.original, edited=edited.edited, **edited.more)
    write_json(
        out / "edit.json",
        settings
        | {
            "run": str(run.dir),
            "weights": run.weights,
            "images": names,
            "seconds": round(seconds, 3),
        }
        | {"measured": edited.measured},
    )
    return edited


def edit_figure(edited: Edited, names: Sequence[str]) -> Figure:
    """Plot the original images and their results in rows.

    With few images, a row shows several results of each image.
    """
    rows = {name: row[:SHOWN] for name, row in list(edited.rows.items())[:SHOWN]}
    if not edited.result_name:
        return figures.labelled_rows(rows)
    results = edited.edited[:SHOWN].float() / 255  # (images, results, C, H, W)
    images, count = results.shape[:2]
    each = min(count, max(1, _SIDE_BY_SIDE // images))
    parts = [results[:, first : first + each] for first in range(0, count, each)]
    table = {name: [_filled(image[None], each) for image in row] for name, row in rows.items()}
    for k, part in enumerate(parts[: SHOWN - len(rows)]):
        first, last = k * each + 1, k * each + part.shape[1]
        name = f"{edited.result_name} {first}" + (f" - {last}" if last > first else "")
        table[name] = [_filled(cell, each) for cell in part]
    if each == 1:
        return figures.labelled_rows({name: torch.cat(row) for name, row in table.items()})
    return figures.labelled_table(table, [_short(name) for name in names[:SHOWN]])


def _filled(images: Tensor, count: int) -> Tensor:
    """Append white images to images (N, C, H, W) to fill (count, C, H, W)."""
    return torch.cat([images, images.new_ones(count - len(images), *images.shape[1:])])


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 3]}..."
