"""A module as a folder for diffusers: a stock pipeline where one draws the same images."""

import inspect
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffusers import DDIMPipeline, DDPMPipeline, DiffusionPipeline
from diffusers.configuration_utils import ConfigMixin
from diffusers.models.modeling_utils import ModelMixin
from torch import nn

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
from diffusion_lab.modules import DiffusionModule
from diffusion_lab.networks.unet2d import UNet2D
from diffusion_lab.sampling.conditioning import Conditioning
from diffusion_lab.system.atomic import new_folder

STOCK = {"DDIMScheduler": DDIMPipeline, "DDPMScheduler": DDPMPipeline}
STOCK_PREDICTIONS = ("epsilon", "sample", "v_prediction")
PREDICTIONS = (*STOCK_PREDICTIONS, "flow", "score", "edm")
ERRORS_IMPORT = "from diffusion_lab.errors import UserError"


@dataclass(frozen=True)
class Export:
    """What a folder will hold, decided before anything is written."""

    pipeline: DiffusionPipeline
    """With the module's own network: it shares the weights and must not be moved or changed."""
    sampler: Sampler
    """The project's sampler that draws what the pipeline draws."""
    exact: bool
    """Whether that is the sampler asked for, step for step, and not a deterministic stand-in."""
    network_source: str | None
    """The file that defines the network, None for one of diffusers' own."""
    conditioning: Conditioning
    """Guidance of a call that names none; a stock pipeline has no classes."""

    @property
    def stock(self) -> bool:
        """Whether diffusers alone loads it."""
        return type(self.pipeline) in STOCK.values()

    def write(self, folder: Path) -> None:
        """Fill a folder: model_index.json, the weights as safetensors, and the code if need be."""
        if isinstance(self.pipeline, pipeline.DiffusionLabPipeline):
            self.pipeline.network_source = self.network_source  # made to stand alone
        self.pipeline.save_pretrained(folder)


def export_pipeline(
    module: DiffusionModule,
    folder: str | Path,
    sampler: Sampler,
    value_range: ValueRange,
    image_shape: tuple[int, int, int],
    conditioning: Conditioning | None = None,
) -> Export:
    """Write a module's current weights as a new pipeline folder, whole or not at all.

    Only reads the module, so it may be called in the middle of training. Raises UserError if the
    folder holds something or the module cannot be exported.
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
    """Decide how a module is exported; a stock pipeline wherever one draws the same.

    A sampler that no pipeline walks is replaced by the deterministic step, as often. `guide` has
    the guidance of a call that names none; None for no guidance. Raises UserError where another
    part of the module has no counterpart in the exported pipelines.
    """
    network, schedule, prediction = module.network, module.noise_schedule, module.prediction
    network = getattr(network, "_orig_mod", network)  # torch.compile(network) wraps it
    unet = _diffusers_model(network)
    use_time = getattr(network, "use_time", True)
    settings = {
        "image_shape": list(image_shape),
        "value_range": [value_range.low, value_range.high],
        **_path(schedule),
        **_prediction(prediction),
        "noise": schedule.noise,
        "use_time": use_time,
        "num_classes": module.num_classes,
    }
    walked, exact = _exportable(sampler, schedule)
    conditioning = conditioning or Conditioning.of(module)
    settings |= {
        "num_inference_steps": walked.num_steps,
        "guidance_scale": conditioning.guidance_scale,
        "guidance_interval": None
        if conditioning.interval == EVERYWHERE
        else list(conditioning.interval),
    }
    scheduler = None
    if isinstance(walked, DiffusersSampler):
        scheduler = walked.scheduler_class.from_config(schedule.scheduler_config | walked.config)
        if (
            isinstance(network, UNet2D)
            and use_time
            and module.num_classes is None
            and value_range.name == "minus_one_one"
            and prediction.name in STOCK_PREDICTIONS
        ):
            scheduler.register_to_config(prediction_type=prediction.name)
            return Export(STOCK[walked.name](unet, scheduler), walked, exact, None, conditioning)
        settings["step"] = {} if walked.eta is None else {"eta": walked.eta}
    else:
        settings["heun"] = isinstance(walked, HeunSampler)
    drawn = pipeline.DiffusionLabPipeline(unet, scheduler, settings)
    return Export(drawn, walked, exact, _source(unet), conditioning)


def check_exportable(module: DiffusionModule) -> None:
    """Raise UserError where a part of the module has no counterpart in the exported pipelines."""
    _source(_diffusers_model(module.network))
    _path(module.noise_schedule)
    _prediction(module.prediction)


def _exportable(sampler: Sampler, schedule: NoiseSchedule) -> tuple[Sampler, bool]:
    """The sampler that a pipeline walks in this one's place, and whether it is the same."""
    if not isinstance(schedule, VPSchedule):
        same = isinstance(sampler, BlendSampler)
        return (sampler if same else BlendSampler(sampler.num_steps)), same
    if isinstance(sampler, DiffusersSampler) and sampler.name in STOCK:
        return sampler, True
    num_steps = min(sampler.num_steps, schedule.num_train_timesteps)
    ddim = DiffusersSampler("DDIMScheduler", num_steps, eta=0.0, clip_sample=False)
    # DDIM takes all steps to be equally long
    same = type(sampler) is BlendSampler and schedule.num_train_timesteps % num_steps == 0
    return ddim, same


def _diffusers_model(network: nn.Module) -> nn.Module:
    """The part of a network that diffusers can save and load."""
    model = network.unet if isinstance(network, UNet2D) else network
    if not isinstance(model, ModelMixin) or not isinstance(model, ConfigMixin):
        raise UserError(
            f"{type(model).__name__} cannot be exported: it must be a ModelMixin and ConfigMixin "
            "of diffusers with register_to_config on its __init__, as networks/fast_unet.py"
        )
    return model


def _source(model: nn.Module) -> str | None:
    """The file of a network's class, made to stand alone."""
    if type(model).__module__.startswith("diffusers."):
        return None
    file = inspect.getfile(type(model))
    source = Path(file).read_text().replace(ERRORS_IMPORT, "UserError = ValueError")
    if re.search(r"^\s*(from|import) diffusion_lab", source, re.MULTILINE):
        raise UserError(
            f"{type(model).__name__} cannot be exported: {file} uses more of diffusion_lab than "
            "UserError, and must work without it"
        )
    return source


def _path(schedule: NoiseSchedule) -> dict[str, Any]:
    if isinstance(schedule, VPSchedule):
        return {"path": "vp"}
    if isinstance(schedule, StraightPath):
        return {"path": "linear"}
    if isinstance(schedule, VESchedule):
        rho = schedule.rho if schedule.spacing == "karras" else None
        ends = {"sigma_min": schedule.sigma_min, "sigma_max": schedule.sigma_max}
        return {"path": "ve", "ve": {**ends, "sigma_data": schedule.sigma_data, "rho": rho}}
    raise UserError(f"{type(schedule).__name__} cannot be exported: pipeline.py lacks its formulas")


def _prediction(prediction: Prediction) -> dict[str, Any]:
    if prediction.name not in PREDICTIONS:
        raise UserError(
            f"prediction={prediction.name} cannot be exported: pipeline.py lacks its formula"
        )
    if isinstance(prediction, Score) and prediction.times_sigma:
        return {"prediction": "sigma_score"}
    if isinstance(prediction, EDM):
        return {"prediction": prediction.name, "sigma_data": prediction.sigma_data}
    return {"prediction": prediction.name}
