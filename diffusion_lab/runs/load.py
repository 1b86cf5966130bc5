"""A trained run back from its folder, in one call, with no Hydra."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from diffusion_lab.config.trusted import construct
from diffusion_lab.data.value_range import ValueRange
from diffusion_lab.diffusion import Sampler, Step
from diffusion_lab.errors import UserError
from diffusion_lab.modules import DiffusionModule
from diffusion_lab.runs.checkpoint import read_checkpoint
from diffusion_lab.runs.post_hoc_ema import PREFIX, blend_snapshots
from diffusion_lab.runs.state import checkpoint_file
from diffusion_lab.sampling.conditioning import Conditioning
from diffusion_lab.sampling.draw import draw
from diffusion_lab.system.precision import FULL
from diffusion_lab.system.system_errors import fault

# what training alone needs
_TRAINING_ONLY = {"optimizer", "lr_scheduler", "pairing", "time_sampling"}


@dataclass
class Run:
    """A trained module and what is needed to use it."""

    dir: Path
    config: dict[str, Any]
    """The resolved configuration it was trained with."""
    module: DiffusionModule
    """In evaluation mode, on the CPU."""
    value_range: ValueRange
    image_shape: tuple[int, int, int]
    """(C, H, W)."""
    weights: str
    """Those of the checkpoint that the module has, "ema", "raw" or "posthoc:0.1", or "pipeline"."""
    trust: Sequence[str] = ()

    @property
    def has_clusters(self) -> bool:
        """Whether its classes are clusters of look-alikes, and none of the data's own."""
        return self.config.get("data", {}).get("clusters") is not None

    def sampler(self, **settings: Any) -> Sampler:
        """The run's own sampler, with settings changed, such as `num_steps=10`.

        Raises UserError for a setting it does not have.
        """
        node = self.config["sampler"] | settings
        try:
            sampler: Sampler = construct(node, self.trust)
        except TypeError as error:
            raise UserError(f"sampler: {error}") from error
        sampler.check(self.module.noise_schedule)
        return sampler

    def conditioning(
        self,
        labels: Sequence[int] | int | str | None = None,
        guidance_scale: float | None = None,
        guidance_interval: Sequence[float] | None = None,
        weak: DiffusionModule | None = None,
    ) -> Conditioning:
        """Labels and guidance for sampling; what is None is the run's own.

        A run of before there were such defaults has none: guidance_scale=1. So has labels="none",
        as there is no class to pull towards. Raises UserError for what the module cannot do.
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
        sampler: Sampler | None = None,
        labels: Sequence[int] | int | str | None = None,
        guidance_scale: float | None = None,
        conditioning: Conditioning | None = None,
        batch_size: int = 64,
        precision: str = FULL,
        **settings: Any,
    ) -> Tensor:
        """Sample images, uint8 (N, C, H, W), on the CPU, as `scripts/sample.py` does.

        Image k depends on the seed and k alone.

        Args:
            num_samples: N.
            seed: of all noise.
            sampler: in place of the run's own.
            labels: one or several of a conditional run's classes, "all" (the default there) or
                "none"; image k gets labels[k % len(labels)].
            guidance_scale: default the run's own.
            conditioning: labels and guidance together, from `conditioning()`; then leave out the
                two above.
            batch_size: images in one call of the network.
            precision: 32-true, bf16-mixed or auto; of the network.
            settings: of the run's own sampler, such as num_steps=10.

        Raises:
            UserError: for what does not fit the run, and for images that are not finite.

        """
        images, _ = self.sample_with_steps(
            num_samples,
            sampler or self.sampler(**settings),
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
        """`sample`, and up to 60 steps of the first 64 images, on the CPU."""
        return draw(
            self.module,
            sampler,
            self.image_shape,
            self.value_range,
            num_samples=num_samples,
            batch_size=batch_size,
            seed=seed,
            conditioning=conditioning,
            precision=precision,
        )


def build_module(config: Mapping[str, Any], trust: Sequence[str] = ()) -> DiffusionModule:
    """The untrained module of a saved configuration, without what training alone needs."""
    node = {k: v for k, v in config["model"].items() if k not in _TRAINING_ONLY}
    module: DiffusionModule = construct(node, trust)
    return module


def load_run(
    run_dir: str | Path,
    checkpoint: str = "last",
    weights: str | None = None,
    trust: Sequence[str] = (),
) -> Run:
    """Rebuild the module of a run folder with the weights of its checkpoint, "last" or "best".

    `weights` is "ema" or "raw"; by default the moving average where the run kept one. Of a run with
    callbacks=post_hoc_ema also "posthoc:0.1", the average of this width at the last snapshot before
    the checkpoint, or "posthoc:0.1@4000", at that step. Only plain data is read from the file
    (weights_only), and only this project's classes are made from it, and those of the packages in
    `trust`. Raises UserError if the folder or the checkpoint is not there or cannot be read.
    """
    folder = Path(run_dir).expanduser()
    path = checkpoint_file(run_dir, checkpoint)
    state = read_checkpoint(path)
    config, raw = state["config"], state["state_dict"]
    kept = {"ema": state["ema"]["weights"], "raw": {}} if "ema" in state else {"raw": {}}
    chosen = weights or next(iter(kept))
    if chosen.startswith(PREFIX):
        kept[chosen] = blend_snapshots(folder, chosen, newest=state["global_step"])
    if chosen not in kept:
        raise UserError(f"weights={weights}: {path} has {' and '.join(kept)}")
    data = config["data"]
    try:
        module = build_module(config, trust)
        module.load_state_dict(raw | kept[chosen])
        return Run(
            dir=folder,
            config=config,
            module=module.eval().requires_grad_(False),
            value_range=ValueRange(data["value_range"]),
            image_shape=(data["channels"], data["image_size"], data["image_size"]),
            weights=chosen,
            trust=trust,
        )
    except (AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
        if fault(error):
            raise
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"{path} does not fit its own configuration ({type(error).__name__}: {reason}): "
            "give another checkpoint or run"
        ) from error
