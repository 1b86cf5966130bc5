"""scripts/explain.py: describe a training configuration on one page, without training."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from omegaconf import DictConfig, OmegaConf

from diffusion_lab import figures
from diffusion_lab.config.groups import make_sampler, refusal, words
from diffusion_lab.config.instantiate import build
from diffusion_lab.config.validate import check_config
from diffusion_lab.data.datamodule import ImageDataModule
from diffusion_lab.diffusion.log_snr import implied_weighting, log_snr_range
from diffusion_lab.errors import UserError
from diffusion_lab.modules.contracts import check_range, check_sampler
from diffusion_lab.modules.cost import cost
from diffusion_lab.sampling.description import planned
from diffusion_lab.training.checks import check_guidance, check_network
from diffusion_lab.training.components import build_model

log = logging.getLogger(__name__)


@dataclass
class Explanation:
    """The text of explanation.md and the folder it was written to."""

    page: str
    out: Path

    @property
    def lines(self) -> list[str]:
        """The lines to print."""
        return [self.page]


def _doc(part: object) -> str:
    return (type(part).__doc__ or "").strip().partition("\n")[0]


def _times(shape: tuple[int, int, int]) -> str:
    return " x ".join(map(str, shape))


def explain(cfg: DictConfig) -> Explanation:
    """Write explanation.md and weighting.png for a training configuration, without training."""
    config = cast(dict[str, Any], OmegaConf.to_container(cfg, resolve=True))
    check_config(config)
    data: ImageDataModule = build(cfg.data)  # checks the settings; loads no images
    check_network(config)
    module = build_model(cfg)
    own = build(cfg.sampler)
    conditioning = check_guidance(cfg, module)
    shape = data.value_shape
    figure = cost(module, shape, cfg.data.batch_size)
    fits, refused = [], []
    for word in words("sampler"):
        try:
            sampler = make_sampler(word)
            reason = refusal(sampler, module.noise_schedule)
            check_range(sampler, data.value_range)
            if reason is None:
                check_sampler(sampler, module.noise_schedule, shape)
        except UserError as error:  # it clips, or is a broken one in the user's own folder
            reason = str(error)
        fits.append(word) if reason is None else refused.append(f"- {word}: {reason}")
    schedule = module.noise_schedule
    ends = schedule.span(2)
    alphas, sigmas = schedule.alpha(ends).tolist(), schedule.sigma(ends).tolist()
    stored = str(cfg.data.value_range)
    if shape != data.image_shape:
        stored = f"standardised latents of {_times(shape)} (images of {_times(data.image_shape)})"
    speed = cfg.data.batch_size / figure["step_seconds"]
    facts = {
        "noise schedule": f"{_doc(schedule)} alpha {alphas[0]:.4g} to {alphas[1]:.4g}, sigma "
        f"{sigmas[0]:.4g} to {sigmas[1]:.4g}; {schedule.noise} noise, data in "
        f"{stored}",
        "target": f"{module.prediction.name}. {_doc(module.prediction)}",
        "weighting": _doc(module.weighting),
        "noise levels": _doc(module.time_sampling),
        **({} if module.augment is None else {"augmentation": _doc(module.augment)}),
        "sampler": f"{_doc(own)} {planned(config['sampler'], own, [conditioning], module, shape)}",
        "compatible samplers": ", ".join(fits),
        "parameters": f"{figure['parameters']:,}",
        "FLOPs per image": f"{figure['flops']:,} forward, about three times as many in training",
        "training speed here": f"{speed:,.0f} images per second (fastest of 3 float32 steps of "
        f"{figure['timed_images']} images, {figure['timed_images'] / speed:.3f} s)",
        "implied weighting of the x0 loss": "weighting.png, by log-SNR",
    }
    title = f"{type(module.network).__name__}, {module.prediction.name} on "
    page = f"# {title}{type(schedule).__name__}\n\n"
    page += "\n".join(f"- {name}: {fact}" for name, fact in facts.items()) + "\n"
    if refused:
        page += "\nIncompatible samplers:\n" + "\n".join(refused) + "\n"
    out = Path(cfg.paths.output_dir).absolute()
    implied = implied_weighting(module.time_sampling, schedule, module.weighting, module.prediction)
    low, high = log_snr_range(module.time_sampling, schedule)  # weights tend to 0 or inf outside
    seen = (low <= implied.log_snr) & (implied.log_snr <= high)
    level, weight = implied.log_snr[seen], implied.on_x0[seen]
    plot = {
        "density of training noise levels": (level, implied.density[seen]),
        "implied weight of |x0 - x0_hat|^2": (level, weight / np.trapezoid(weight, level)),
    }
    xlabel = "log-SNR (pure noise on the left)"
    figures.save_figure(figures.line_plot(plot, xlabel=xlabel), out / "weighting.png")
    (out / "explanation.md").write_text(page)
    return Explanation(page, out)
