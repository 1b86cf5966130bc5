"""The options that every command with run= and sampler= shares."""

from functools import partial
from pathlib import Path
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf

from diffusion_lab.config.instantiate import build_part
from diffusion_lab.config.trusted import construct, trusted
from diffusion_lab.config.validate import check_config
from diffusion_lab.diffusion import Sampler
from diffusion_lab.errors import UserError
from diffusion_lab.modules.contracts import check_sampler
from diffusion_lab.runs.load import Run, load_run
from diffusion_lab.sampling.conditioning import Conditioning


def check_run(cfg: DictConfig) -> None:
    """Raise UserError where no run folder is given."""
    if OmegaConf.is_missing(cfg, "run") or not cfg.run:
        raise UserError("run= is missing: give a run folder, run=logs/runs/<name>")


def open_run(cfg: DictConfig) -> Run:
    """The trained run that a command's `RunSource` options name; UserError if there is none."""
    check_run(cfg)
    return load_run(cfg.run, cfg.checkpoint, cfg.weights, cfg.trust)


def chosen_sampler(run: Run, given: DictConfig) -> tuple[dict[str, Any], Sampler]:
    """The run's own sampler with the settings given; a sampler given whole stands alone.

    -> its configuration and itself. Raises UserError if it does not go with the run.
    """
    plain = cast(dict[str, Any], OmegaConf.to_container(given, resolve=True))
    settings = {key: value for key, value in plain.items() if value is not None}
    if "_target_" in settings and plain.get("num_steps", 1) is None:
        raise UserError("sampler.num_steps=null: expected a whole number, at least 1")
    sampler: Sampler
    if "_target_" in settings:  # chosen by whoever types the command, as in a training
        config = settings
        check_config({"sampler": config})
        sampler = build_part("sampler", config, Sampler)
    else:
        config = run.config["sampler"] | settings
        check_config({"sampler": config}, partial(trusted, trust=run.trust))
        sampler = construct(config, run.trust)
    sampler.check(run.module.noise_schedule)
    check_sampler(sampler, run.module.noise_schedule, run.image_shape)
    return config, sampler


def read_conditionings(cfg: DictConfig, run: Run) -> list[Conditioning]:
    """One conditioning for each guidance scale, by default the run's own.

    Raises UserError for what the run cannot do.
    """
    plain = cast(dict[str, Any], OmegaConf.to_container(cfg))
    scales = plain["guidance_scale"]
    typed = scales is not None
    scales = scales if isinstance(scales, list) else [scales]
    numbers = [type(scale) in (int, float) for scale in scales]
    if typed and not (numbers and all(numbers)):
        raise UserError(
            f"guidance_scale={plain['guidance_scale']}: expected a number or several, "
            "for example guidance_scale=0,1,3"
        )
    weak = None if cfg.autoguidance is None else _weak_run(cfg.autoguidance, run, cfg.weights)
    conditionings = [
        run.conditioning(
            plain["labels"],
            scale,
            plain["guidance_interval"],
            None if weak is None else weak.module,
        )
        for scale in scales
    ]
    if all(conditioning.guidance_scale == 1 for conditioning in conditionings):
        if weak is not None:
            raise UserError(
                "autoguidance= changes nothing at guidance_scale=1: try guidance_scale=2"
            )
        if cfg.guidance_interval is not None:
            raise UserError("guidance_interval= changes nothing at guidance_scale=1: set that too")
    return conditionings


def _weak_run(where: str, run: Run, weights: str | None) -> Run:
    """A run folder, or the name of another checkpoint of this run."""
    folder, checkpoint = (where, "last") if Path(where).is_dir() else (run.dir, where)
    try:
        weak = load_run(folder, checkpoint, weights, run.trust)
    except UserError as error:
        raise UserError(
            f"autoguidance={where}: {error}; expected a checkpoint of this run or a run folder"
        ) from error
    for what, mine, its in (
        ("shape of images", run.image_shape, weak.image_shape),
        ("value range", run.value_range.name, weak.value_range.name),
        ("noise schedule", run.config["noise_schedule"], weak.config["noise_schedule"]),
        ("set of clusters", read_clusters(run), read_clusters(weak)),
    ):
        if mine != its:
            raise UserError(
                f"autoguidance={where} has another {what} than this run: give an earlier "
                "checkpoint of it, or a smaller run of its kind"
            )
    return weak


def read_clusters(run: Run) -> dict[str, Any] | None:
    """What its clusters were found in; None for a run without."""
    names = ("name", "source", "clusters", "train_size", "val_size", "num_images")
    return {name: run.config["data"].get(name) for name in names} if run.has_clusters else None
