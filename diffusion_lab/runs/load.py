"""Load a trained run from its folder and sample from it, without Hydra."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from diffusion_lab.config.trusted import check_parts, construct
from diffusion_lab.data.latents.decoder import range_of
from diffusion_lab.data.shape import image_shape
from diffusion_lab.data.value_range import ValueRange
from diffusion_lab.diffusion import Sampler, Step
from diffusion_lab.errors import UserError
from diffusion_lab.modules import DiffusionModule
from diffusion_lab.modules.contracts import check_range, check_sampler
from diffusion_lab.runs.checkpoint import read_checkpoint
from diffusion_lab.runs.post_hoc_ema import PREFIX, blend_snapshots
from diffusion_lab.runs.state import checkpoint_file
from diffusion_lab.sampling.conditioning import Conditioning
from diffusion_lab.sampling.draw import draw
from diffusion_lab.system.precision import FULL
from diffusion_lab.system.system_errors import fault

# parts of the module that only training needs
_TRAINING_ONLY = {"optimizer", "lr_scheduler", "pairing", "time_sampling"}


@dataclass
class Run:
    """A trained module and its configuration, for sampling."""

    dir: Path
    config: dict[str, Any]
    """The resolved configuration that the run was trained with."""
    module: DiffusionModule
    """In evaluation mode, on the CPU."""
    value_range: ValueRange
    image_shape: tuple[int, int, int]
    """(C, H, W)."""
    weights: str
    """Weights in use: "ema", "raw" or "posthoc:<width>"; "pipeline" for a diffusers pipeline."""
    trust: Sequence[str] = ()
    """Packages, besides this project, whose classes the saved configuration may name."""

    @property
    def value_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of what the network gets: images, or their latents."""
        return self.value_range.shape(self.image_shape)

    @property
    def has_clusters(self) -> bool:
        """True if the run's classes are clusters of similar images instead of the data's labels."""
        return self.config.get("data", {}).get("clusters") is not None

    def sampler(self, name: str | None = None, **settings: Any) -> Sampler:
        """Build a sampler with settings changed, such as `num_steps=10`.

        `name` is an option of sampler=, such as "heun"; None means the run's own sampler. Raises
        UserError for an unknown name, for a setting that the sampler does not have, and for a
        sampler that does not fit the run.
        """
        try:
            sampler: Sampler = (
                construct(self.config["sampler"] | settings, self.trust)
                if name is None
                else _named(name, settings)
            )
        except TypeError as error:
            raise UserError(f"the run's sampler cannot be built: {error}") from error
        if name is not None:
            check_sampler(sampler, self.module.noise_schedule, self.value_shape)
        sampler.check(self.module.noise_schedule)
        check_range(sampler, self.value_range)
        return sampler

    def conditioning(
        self,
        labels: Sequence[int] | int | str | None = None,
        guidance_scale: float | None = None,
        guidance_interval: Sequence[float] | None = None,
        weak: DiffusionModule | None = None,
    ) -> Conditioning:
        """Return class labels and guidance for sampling; None means the run's default.

        The default guidance_scale is 1 (no guidance) for labels="none" without `weak`, and for a
        run whose saved configuration has no guidance_scale. `weak` is the weaker model of
        autoguidance. Raises UserError for labels or guidance that the module does not support.
        """
        if guidance_scale is None:
            guided = weak is not None or labels != "none"
            guidance_scale = self.config.get("guidance_scale", 1.0) if guided else 1.0
        if guidance_interval is None and guidance_scale != 1:
            guidance_interval = self.config.get("guidance_interval")
        return Conditioning.of(self.module, labels, guidance_scale, guidance_interval, weak)

    def sample(
        self,
        num_samples: int,
        *,
        seed: int = 0,
        sampler: Sampler | str | None = None,
        labels: Sequence[int] | int | str | None = None,
        guidance_scale: float | None = None,
        conditioning: Conditioning | None = None,
        batch_size: int = 64,
        precision: str = FULL,
        **settings: Any,
    ) -> Tensor:
        """Sample images as `scripts/sample.py` does; return uint8 (N, C, H, W) on the CPU.

        Image k depends only on the seed and k. Data of an unbounded range are float32.

        Args:
            num_samples: N.
            seed: seed of all noise.
            sampler: an option of sampler=, such as "heun", or a Sampler; default: the run's own.
            labels: one or several classes of a conditional run, "all" (the default) or "none";
                image k has class labels[k % len(labels)].
            guidance_scale: default: the run's own.
            conditioning: labels and guidance from `conditioning()`, in place of `labels` and
                `guidance_scale`.
            batch_size: images per network evaluation.
            precision: precision of the network: 32-true, bf16-mixed or auto.
            settings: changed settings of the sampler, such as num_steps=10; not with a Sampler.

        Raises:
            UserError: for arguments that do not fit the run, and for images that are not finite.

        """
        if not isinstance(sampler, Sampler):
            sampler = self.sampler(sampler, **settings)
        elif settings:
            raise UserError(
                f"{', '.join(settings)} cannot be changed in a Sampler that is built already: "
                "expected the name of a sampler, or the settings in the Sampler itself"
            )
        images, _ = self.sample_with_steps(
            num_samples,
            sampler,
            conditioning or self.conditioning(labels, guidance_scale),
            seed=seed,
            batch_size=batch_size,
            precision=precision,
        )
        return images

    def sample_with_steps(
        self,
        num_samples: int,
        sampler: Sampler,
        conditioning: Conditioning,
        *,
        seed: int = 0,
        batch_size: int = 64,
        precision: str = FULL,
    ) -> tuple[Tensor, list[Step]]:
        """Sample images like `sample`; also return up to 60 steps of the first 64 images."""
        return draw(
            self.module,
            sampler,
            self.value_shape,
            self.value_range,
            num_samples=num_samples,
            batch_size=batch_size,
            seed=seed,
            conditioning=conditioning,
            precision=precision,
        )


def _named(name: str, settings: Mapping[str, Any]) -> Sampler:
    from diffusion_lab.config.groups import make_sampler  # imports OmegaConf, which few runs need

    return make_sampler(name, **settings)


def build_module(config: Mapping[str, Any], trust: Sequence[str] = ()) -> DiffusionModule:
    """Build the untrained module of a saved configuration, for sampling only.

    Parts that only training needs, such as the optimizer, are left out.
    """
    node = {k: v for k, v in config["model"].items() if k not in _TRAINING_ONLY}
    others = [config.get(name) for name in ("sampler", "data")]
    check_parts(node, [node, *others], trust)
    module: DiffusionModule = construct(node, trust)
    return module


def load_run(
    run_dir: str | Path,
    checkpoint: str = "last",
    weights: str | None = None,
    trust: Sequence[str] = (),
) -> Run:
    """Rebuild the module of a run folder with the weights of one of its checkpoints.

    Args:
        run_dir: the run folder.
        checkpoint: "last", "best" or the name of another file in checkpoints/, without .ckpt.
        weights: "ema" (the default if the run has a moving average) or "raw". With
            callbacks=post_hoc_ema also "posthoc:0.1", the EMA of width 0.1 at the last snapshot up
            to the checkpoint's step, or "posthoc:0.1@4000", the EMA at step 4000.
        trust: packages, besides this project, whose classes the saved configuration may name.

    Raises:
        UserError: if the folder or the checkpoint is missing or cannot be read, or names a class
            of another package. No code in the checkpoint is run (weights_only).

    """
    folder = Path(run_dir).expanduser()
    path = checkpoint_file(run_dir, checkpoint)
    state = read_checkpoint(path)
    config, raw = state["config"], state["state_dict"]
    averages: dict[str, dict[str, Tensor]] = {}
    if "ema" in state:
        averages["ema"] = state["ema"]["weights"]
    averages["raw"] = {}  # replaces none of the trained weights
    chosen = weights or next(iter(averages))
    if chosen.startswith(PREFIX):
        averages[chosen] = blend_snapshots(folder, chosen, newest=state["global_step"])
    if chosen not in averages:
        raise UserError(
            f"weights={weights}: expected {' or '.join(averages)}, the weights in {path}"
        )
    data = config["data"]
    try:
        value_range = range_of(data)
        value_range.use_record(state.get("data", {}))
        module = build_module(config, trust)
        module.load_state_dict(raw | averages[chosen])
        return Run(
            dir=folder,
            config=config,
            module=module.eval().requires_grad_(False),
            value_range=value_range,
            image_shape=image_shape(data),
            weights=chosen,
            trust=trust,
        )
    except (AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
        if fault(error):
            raise
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"the weights in {path} do not fit the configuration saved with them "
            f"({type(error).__name__}: {reason}): use another checkpoint or run"
        ) from error
