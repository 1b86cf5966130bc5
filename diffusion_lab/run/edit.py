"""Images edited by a trained run, and a picture of what became of them."""

import time
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf

from diffusion_lab import figures
from diffusion_lab.errors import UserError
from diffusion_lab.run.check import check_keys
from diffusion_lab.run.edits import EDITS, Edited, check_at_least_one
from diffusion_lab.run.given_images import read_images
from diffusion_lab.run.load import load_run
from diffusion_lab.run.record import write_json
from diffusion_lab.run.results import choose_device, results_folder, save_arrays

SHOWN = 16  # images, pairs of images or samples of one image in the picture


def edit(cfg: DictConfig) -> Edited:
    """Edit the images given and leave edit.png, edit.npz and edit.json.

    Raises UserError for a mistake in the configuration, before anything is done or written.
    """
    if OmegaConf.is_missing(cfg, "run") or not cfg.run:
        raise UserError("run= is missing: give a run folder, run=logs/runs/<name>")
    kind = EDITS[cfg.edit]
    check_keys(cfg, kind.schema)
    check_at_least_one(cfg, "num_steps")
    run = load_run(cfg.run, cfg.checkpoint, cfg.weights, cfg.trust)
    try:
        run.module.noise_schedule.timesteps(cfg.num_steps)
    except UserError as error:  # says it to a sampler
        raise UserError(str(error).removeprefix("sampler.")) from error
    settings = cast(dict[str, Any], OmegaConf.to_container(cfg, resolve=True))
    names, pixels = read_images(settings["images"], run, cfg.paths.data_dir)
    work = kind(cfg, run, names, pixels)
    run.module.to(choose_device(cfg.accelerator))
    out = results_folder(cfg.out, run.dir / "edits")

    began = time.perf_counter()
    x0 = run.value_range.encode(pixels).to(run.module.device)
    edited = work(x0)
    edited.out = out
    seconds = time.perf_counter() - began
    rows = {name: row[:SHOWN] for name, row in list(edited.rows.items())[:SHOWN]}
    figures.save_figure(figures.labelled_rows(rows), out / "edit.png")
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
