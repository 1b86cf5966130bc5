"""Options shared by all commands that sample from a run: run, sampler, labels and guidance."""

from functools import partial
from pathlib import Path
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from diffusion_lab.config.instantiate import build_part
from diffusion_lab.config.trusted import construct, trusted
from diffusion_lab.config.validate import check_config
from diffusion_lab.diffusion import Sampler
from diffusion_lab.errors import UserError
from diffusion_lab.modules.contracts import check_range, check_sampler
from diffusion_lab.runs.data import run_data
from diffusion_lab.runs.diffusers_pipeline import load_pipeline
from diffusion_lab.runs.load import Run, load_run
from diffusion_lab.sampling.choose_figures import figures_of
from diffusion_lab.sampling.conditioning import Conditioning
from diffusion_lab.sampling.data_figures import DataFigures
from diffusion_lab.sampling.progress import say


def check_run(cfg: DictConfig) -> None:
    """Raise UserError if the option run= is missing or empty."""
    if OmegaConf.is_missing(cfg, "run") or not cfg.run:
        raise UserError("run= is missing: type the folder of a run, run=logs/runs/<name>")


def open_run(cfg: DictConfig) -> Run:
    """Load the run that the options run, checkpoint, weights and trust of a command select.

    Raises UserError if run= is missing or the run cannot be loaded.
    """
    check_run(cfg)
    return load_run(cfg.run, cfg.checkpoint, cfg.weights, cfg.trust)


def open_model(cfg: DictConfig) -> Run:
    """Load the run of a command's `run=`, or the diffusers pipeline of its `pipeline=`.

    Raises UserError if both or neither of run= and pipeline= are set, and if an option that needs
    run= is set with pipeline=.
    """
    if bool(cfg.run) == bool(cfg.pipeline):
        raise UserError(
            "expected one of run= and pipeline=: type run=logs/runs/<name> for a run of this "
            "project, or pipeline=<folder> for a diffusers pipeline"
        )
    if cfg.run:
        return open_run(cfg)
    for name, default in (("weights", None), ("autoguidance", None), ("checkpoint", "last")):
        if cfg[name] != default:
            raise UserError(
                f"{name}={cfg[name]} works with run= only, because a pipeline folder holds one set "
                f"of weights: leave out {name}="
            )
    return load_pipeline(cfg.pipeline)


def chosen_sampler(run: Run, given: DictConfig) -> tuple[dict[str, Any], Sampler]:
    """Build the sampler for a command: `sampler=<name>`, or the run's own with changed settings.

    `given` is the command's node `sampler`. Returns the sampler's configuration and the sampler.
    Raises UserError if the sampler does not fit the run.
    """
    plain = cast(dict[str, Any], OmegaConf.to_container(given, resolve=True))
    settings = {key: value for key, value in plain.items() if value is not None}
    if "_target_" in settings and plain.get("num_steps", 1) is None:
        raise UserError("sampler.num_steps=null: expected a whole number, at least 1")
    sampler: Sampler
    if "_target_" in settings:  # named on the command line, so any class is allowed
        config = settings
        check_config({"sampler": config})
        sampler = build_part("sampler", config, Sampler)
    else:
        config = run.config["sampler"] | settings
        check_config({"sampler": config}, partial(trusted, trust=run.trust))
        sampler = construct(config, run.trust)
    sampler.check(run.module.noise_schedule)
    check_range(sampler, run.value_range)
    check_sampler(sampler, run.module.noise_schedule, run.value_shape)
    return config, sampler


def read_conditionings(cfg: DictConfig, run: Run) -> list[Conditioning]:
    """Return one conditioning for each scale in guidance_scale=; the default is the run's scale.

    Raises UserError for labels or guidance that the run does not support.
    """
    plain = cast(dict[str, Any], OmegaConf.to_container(cfg))
    scales = plain["guidance_scale"]
    given = scales is not None
    scales = scales if isinstance(scales, list) else [scales]
    numbers = [type(scale) in (int, float) for scale in scales]
    if given and not (numbers and all(numbers)):
        raise UserError(
            f"guidance_scale={plain['guidance_scale']}: expected one or several numbers, "
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
                "autoguidance= has no effect with guidance_scale=1: type another scale, for "
                "example guidance_scale=2, or leave out autoguidance="
            )
        if cfg.guidance_interval is not None:
            raise UserError(
                "guidance_interval= has no effect with guidance_scale=1: type another scale, for "
                "example guidance_scale=2, or leave out guidance_interval="
            )
    if run.has_clusters and plain["labels"] not in (None, "all", "none"):
        say(
            f"labels={plain['labels']}: clusters of similar images, not classes of the data, "
            f"because the run was trained with data.clusters={run.config['data']['clusters']}"
        )
    return conditionings


def figures_of_run(run: Run) -> DataFigures:
    """Return the figures of a run's kind of data; points are drawn over those of its data set."""

    def real() -> Tensor | None:
        try:
            return run_data(run, None).pixels("test")
        except UserError:  # the user's own data set may have moved
            return None

    return figures_of(run.value_range, real)


def _weak_run(where: str, run: Run, weights: str | None) -> Run:
    """Load the weaker model of autoguidance.

    `where` is the value of autoguidance=, a run folder or the name of a checkpoint of `run`.
    """
    folder, checkpoint = (where, "last") if Path(where).is_dir() else (run.dir, where)
    try:
        weak = load_run(folder, checkpoint, weights, run.trust)
    except UserError as error:
        raise UserError(
            f"autoguidance={where}: {error}; expected the name of a checkpoint of this run, or a "
            "run folder"
        ) from error
    for what, ours, weaker in (
        ("shape of images", run.image_shape, weak.image_shape),
        ("value range", repr(run.value_range), repr(weak.value_range)),
        ("noise schedule", run.config["noise_schedule"], weak.config["noise_schedule"]),
        ("set of clusters", read_clusters(run), read_clusters(weak)),
    ):
        if ours != weaker:
            raise UserError(
                f"autoguidance={where} has another {what} than this run: use an earlier "
                "checkpoint of this run, or a smaller run with the same settings"
            )
    return weak


def read_clusters(run: Run) -> dict[str, Any] | None:
    """Return the data settings that define the run's clusters; None for a run without clusters."""
    names = ("name", "source", "clusters", "train_size", "val_size", "num_images")
    return {name: run.config["data"].get(name) for name in names} if run.has_clusters else None
