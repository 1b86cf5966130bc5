"""Export a module as a folder that diffusers loads.

The folder holds a stock pipeline of diffusers if one gives the same images, else this project's
pipeline with its code.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffusers import DDIMPipeline, DDPMPipeline, DiffusionPipeline
from diffusers.configuration_utils import ConfigMixin
from diffusers.models.modeling_utils import ModelMixin
from torch import nn

from diffusion_lab.data.latents.decoder import LatentDecoder
from diffusion_lab.data.value_range import ValueRange
from diffusion_lab.diffusion import (
    EDM,
    BlendSampler,
    DiffusersSampler,
    HeunSampler,
    NoiseSchedule,
    Prediction,
    Sampler,
    Score,
    StraightPath,
    VESchedule,
    VPSchedule,
)
from diffusion_lab.diffusion.guidance import EVERYWHERE
from diffusion_lab.errors import UserError
from diffusion_lab.export import pipeline
from diffusion_lab.export.network_source import network_source
from diffusion_lab.modules import DiffusionModule
from diffusion_lab.networks.unet2d import UNet2D
from diffusion_lab.sampling.conditioning import Conditioning
from diffusion_lab.system.atomic import new_folder

STOCK = {"DDIMScheduler": DDIMPipeline, "DDPMScheduler": DDPMPipeline}
STOCK_PREDICTIONS = ("epsilon", "sample", "v_prediction")
PREDICTIONS = (*STOCK_PREDICTIONS, "flow", "score", "edm")


@dataclass(frozen=True)
class Export:
    """Pipeline, sampler and guidance of an export, built before any file is written."""

    pipeline: DiffusionPipeline
    """Pipeline that shares the module's network: moving the pipeline would move the module too."""
    sampler: Sampler
    """Sampler of this project that gives the same images as the pipeline."""
    exact: bool
    """True if `sampler` gives the images of the requested sampler, False for a substitute."""
    network_source: str | None
    """Source code of the network, None for a network of diffusers."""
    conditioning: Conditioning
    """Default guidance of the pipeline; no guidance for a stock pipeline, which has no classes."""

    @property
    def stock(self) -> bool:
        """True if diffusers loads the folder without custom code."""
        return type(self.pipeline) in STOCK.values()

    def write(self, folder: Path) -> None:
        """Write the pipeline: model_index.json, weights as safetensors, and code if needed."""
        if isinstance(self.pipeline, pipeline.DiffusionLabPipeline):
            self.pipeline.network_source = self.network_source  # without imports of this project
        self.pipeline.save_pretrained(folder)


def export_pipeline(
    module: DiffusionModule,
    folder: str | Path,
    sampler: Sampler,
    value_range: ValueRange,
    image_shape: tuple[int, int, int],
    conditioning: Conditioning | None = None,
) -> Export:
    """Write a module's current weights atomically as a new pipeline folder.

    The module is not changed, so this may be called during training. Raises UserError if the folder
    is not empty or the module cannot be exported.
    """
    export = plan_export(module, sampler, value_range, image_shape, conditioning)
    with new_folder(folder) as part:
        export.write(part)
    return export


def plan_export(
    module: DiffusionModule,
    sampler: Sampler,
    value_range: ValueRange,
    image_shape: tuple[int, int, int],
    conditioning: Conditioning | None = None,
) -> Export:
    """Build the pipeline for the export of a module, without writing files.

    A stock pipeline of diffusers is used if one gives the same images. A sampler that no pipeline
    supports is replaced by a deterministic sampler with the same number of steps. `conditioning` is
    the default guidance of the pipeline; None means no guidance. Raises UserError if another part
    of the module cannot be exported. `image_shape` is that of the network's values: of the latents
    of a LatentDecoder, whose VAE becomes a part of the pipeline.
    """
    value_range.check_pixels("a pipeline of diffusers")
    network, schedule, prediction = module.network, module.noise_schedule, module.prediction
    network = getattr(network, "_orig_mod", network)  # torch.compile(network) wraps it
    unet = _diffusers_model(network)
    use_time = getattr(network, "use_time", True)
    settings = {
        "image_shape": list(image_shape),
        **_values(value_range),
        **_path(schedule),
        **_prediction(prediction),
        "noise": schedule.noise,
        "use_time": use_time,
        "num_classes": module.num_classes,
    }
    exported, exact = _exportable(sampler, schedule)
    conditioning = conditioning or Conditioning.of(module)
    settings |= {
        "num_inference_steps": exported.num_steps,
        "guidance_scale": conditioning.guidance_scale,
        "guidance_interval": None
        if conditioning.interval == EVERYWHERE
        else list(conditioning.interval),
    }
    scheduler = None
    if isinstance(exported, DiffusersSampler):
        scheduler = exported.scheduler_class.from_config(
            schedule.scheduler_config | exported.config
        )
        if (
            isinstance(network, UNet2D)
            and use_time
            and module.num_classes is None
            and value_range.name == "minus_one_one"
            and prediction.name in STOCK_PREDICTIONS
        ):
            scheduler.register_to_config(prediction_type=prediction.name)
            stock = STOCK[exported.name](unet, scheduler)
            return Export(stock, exported, exact, None, conditioning)
        settings["step"] = {} if exported.eta is None else {"eta": exported.eta}
    else:
        settings["heun"] = isinstance(exported, HeunSampler)
    vae = value_range.model if isinstance(value_range, LatentDecoder) else None
    custom = pipeline.DiffusionLabPipeline(unet, scheduler, settings, vae)
    return Export(custom, exported, exact, network_source(unet), conditioning)


def check_exportable(module: DiffusionModule) -> None:
    """Raise UserError if the network, noise schedule or prediction cannot be exported."""
    network_source(_diffusers_model(module.network))
    _path(module.noise_schedule)
    _prediction(module.prediction)


def _exportable(sampler: Sampler, schedule: NoiseSchedule) -> tuple[Sampler, bool]:
    """Return `sampler`, or its replacement if exported pipelines do not support it.

    The second value is True if the returned sampler samples the same images as `sampler`.
    """
    if not isinstance(schedule, VPSchedule):
        same = isinstance(sampler, BlendSampler)
        return (sampler if same else BlendSampler(sampler.num_steps)), same
    if isinstance(sampler, DiffusersSampler) and sampler.name in STOCK:
        return sampler, True
    num_steps = min(sampler.num_steps, schedule.num_train_timesteps)
    ddim = DiffusersSampler("DDIMScheduler", num_steps, eta=0.0, clip_sample=False)
    # DDIM assumes steps of equal length
    same = type(sampler) is BlendSampler and schedule.num_train_timesteps % num_steps == 0
    return ddim, same


def _diffusers_model(network: nn.Module) -> nn.Module:
    """Return the part of a network that diffusers can save and load."""
    model = network.unet if isinstance(network, UNet2D) else network
    if not isinstance(model, ModelMixin) or not isinstance(model, ConfigMixin):
        raise UserError(
            f"{type(model).__name__} cannot be exported: expected a subclass of diffusers' "
            "ModelMixin and ConfigMixin with register_to_config on __init__, as in "
            "networks/fast_unet.py"
        )
    return model


def _values(value_range: ValueRange) -> dict[str, Any]:
    """Return the settings with which the pipeline converts the network's values to pixels."""
    if isinstance(value_range, LatentDecoder):
        return {"latents": value_range.statistics}
    return {"value_range": [value_range.low, value_range.high]}


def _path(schedule: NoiseSchedule) -> dict[str, Any]:
    if isinstance(schedule, VPSchedule):
        return {"path": "vp"}
    if isinstance(schedule, StraightPath):
        return {"path": "linear"}
    if isinstance(schedule, VESchedule):
        rho = schedule.rho if schedule.spacing == "karras" else None
        ends = {"sigma_min": schedule.sigma_min, "sigma_max": schedule.sigma_max}
        return {"path": "ve", "ve": {**ends, "sigma_data": schedule.sigma_data, "rho": rho}}
    raise UserError(
        f"{type(schedule).__name__} cannot be exported: expected a noise schedule of class "
        "VPSchedule, StraightPath or VESchedule, because export/pipeline.py supports no others"
    )


def _prediction(prediction: Prediction) -> dict[str, Any]:
    if prediction.name not in PREDICTIONS:
        raise UserError(
            f"prediction={prediction.name} cannot be exported: expected one of "
            f"{', '.join(PREDICTIONS)}, because export/pipeline.py supports no others"
        )
    if isinstance(prediction, Score) and prediction.times_sigma:
        return {"prediction": "sigma_score"}
    if isinstance(prediction, EDM):
        return {"prediction": prediction.name, "sigma_data": prediction.sigma_data}
    return {"prediction": prediction.name}
