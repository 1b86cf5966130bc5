"""Load diffusers pipelines with an unconditional UNet2DModel, to sample or to train further."""

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from diffusion_lab.config.trusted import construct
from diffusion_lab.data.latents.decoder import range_of
from diffusion_lab.data.shape import image_shape
from diffusion_lab.data.value_range import ValueRange
from diffusion_lab.diffusion import VPSchedule
from diffusion_lab.diffusion.prediction import Epsilon, Prediction, Sample, VPrediction
from diffusion_lab.errors import UserError
from diffusion_lab.modules import DiffusionModule
from diffusion_lab.networks.image_size import height_and_width
from diffusion_lab.networks.unet2d import UNet2D
from diffusion_lab.runs.load import Run
from diffusion_lab.system.system_errors import no_memory

log = logging.getLogger(__name__)

PREDICTIONS: dict[str, type[Prediction]] = {
    "epsilon": Epsilon,
    "sample": Sample,
    "v_prediction": VPrediction,
}
_BETAS = (
    "beta_schedule",
    "num_train_timesteps",
    "beta_start",
    "beta_end",
    "rescale_betas_zero_snr",
    "trained_betas",
)


@dataclass
class Pipeline:
    """Contents of a diffusers pipeline folder, converted to this project's configuration."""

    network: dict[str, Any]
    """Configuration of a UNet2D."""
    noise_schedule: dict[str, Any]
    """Arguments of VPSchedule."""
    prediction_type: str
    clip_sample: bool
    """True if the pipeline's sampler clips the predicted x0 to [-1, 1]."""
    weights: dict[str, Tensor]
    """Weights of the UNet2DModel."""
    image_shape: tuple[int, int, int]
    """(C, H, W)."""


def read_pipeline(setting: str, folder: str | Path) -> Pipeline:
    """Read a diffusers pipeline with an unconditional UNet2DModel and a scheduler with betas.

    `setting` is the option that names the folder, for error messages. No code in the folder is run:
    weights are read from safetensors, or from a pickle of plain tensors. Raises UserError for
    another kind of folder or pipeline.
    """
    from diffusers import UNet2DModel

    given, folder = f"{setting}={folder}", Path(folder).expanduser()
    index = _read_json(folder, "model_index.json", given)
    network = index.get("unet")
    if network != ["diffusers", "UNet2DModel"]:
        name = network[-1] if isinstance(network, list) and network else "no unet"
        raise UserError(
            f"{given} holds {name}: expected a pipeline with an unconditional UNet2DModel, as "
            "DDPMPipeline saves it"
        )
    if setting == "pipeline" and (index.get("vae") or [None])[0] is not None:
        raise UserError(
            f"{given} makes latents, which its vae decodes: sample it with diffusers, or use the "
            "run it was exported from"
        )
    scheduler = _read_json(folder, "scheduler/scheduler_config.json", given)
    prediction_type = scheduler.get("prediction_type", "epsilon")
    if "beta_schedule" not in scheduler or prediction_type not in PREDICTIONS:
        raise UserError(
            f"{given} holds a {scheduler.get('_class_name')} with prediction_type="
            f"{prediction_type}: expected a scheduler with betas and a prediction_type in "
            f"{list(PREDICTIONS)}"
        )
    try:
        unet = UNet2DModel.from_pretrained(folder / "unet", local_files_only=True)
    except Exception as error:
        if no_memory(error):
            raise
        raise UserError(
            f"{given}/unet cannot be read ({type(error).__name__}): expected a folder with "
            "config.json and diffusion_pytorch_model.safetensors"
        ) from error
    config = {k: v for k, v in unet.config.items() if not k.startswith("_")}
    in_channels, size = config.pop("in_channels"), config.pop("sample_size")
    if config.pop("out_channels") != in_channels or not isinstance(size, int | list | tuple):
        raise UserError(
            f"{given}: expected a UNet2DModel with in_channels equal to out_channels, and with a "
            "sample_size"
        )
    if config.pop("num_class_embeds") is not None or config["class_embed_type"] is not None:
        raise UserError(
            f"{given} holds a class-conditional network: expected an unconditional network; to "
            "sample from a pipeline exported from a run, type run=<run folder>"
        )
    # the remaining settings are arguments of UNet2DModel
    options = {k: list(v) if isinstance(v, tuple) else v for k, v in config.items()}
    return Pipeline(
        network={
            "_target_": "diffusion_lab.networks.unet2d.UNet2D",
            "_convert_": "all",
            "in_channels": in_channels,
            "image_size": size if isinstance(size, int) else list(size),
            "num_classes": None,
            "use_time": True,
            **options,
        },
        noise_schedule={key: scheduler[key] for key in _BETAS if key in scheduler},
        prediction_type=prediction_type,
        clip_sample=scheduler.get("clip_sample", True),
        weights=unet.state_dict(),
        image_shape=(in_channels, *height_and_width(size)),
    )


def load_pipeline(folder: str | Path) -> Run:
    """Load a diffusers pipeline folder as a `Run`; the default sampler is DDIM with 50 steps.

    Raises UserError unless the folder holds a pipeline with an unconditional UNet2DModel and a
    scheduler with betas.
    """
    pipeline = read_pipeline("pipeline", folder)
    network: UNet2D = construct(pipeline.network)
    network.unet.load_state_dict(pipeline.weights)
    module = DiffusionModule(
        network,
        VPSchedule(**pipeline.noise_schedule),
        PREDICTIONS[pipeline.prediction_type](),
    )
    sampler = {
        "_target_": "diffusion_lab.diffusion.DiffusersSampler",
        "scheduler": "DDIMScheduler",
        "num_steps": 50,
        "timestep_spacing": "trailing",
        "eta": 0.0,
        "clip_sample": pipeline.clip_sample,
    }
    return Run(
        dir=Path(folder).expanduser(),
        config={"sampler": sampler},
        module=module.eval().requires_grad_(False),
        value_range=ValueRange("minus_one_one"),  # the range that diffusers' pipelines use
        image_shape=pipeline.image_shape,
        weights="pipeline",
    )


def use_network_of(pipeline: Pipeline, cfg: DictConfig) -> dict[str, Any]:
    """Set `cfg.network` of a training configuration to the pipeline's; return `cfg` resolved.

    Raises UserError if the images or an override do not fit, and warns if the training objective
    differs from the pipeline's.
    """
    source = f"init_from={cfg.init_from}"
    overridden = [word for word in cfg.command.overrides if word.startswith("network")]
    if overridden:
        raise UserError(f"{source} sets the network: leave out {' '.join(overridden)}")
    encoded = f" and latents={cfg.data.latents}" if cfg.data.get("latents") else ""
    shape = range_of(cfg.data).shape(image_shape(cfg.data))
    if shape != pipeline.image_shape:
        raise UserError(
            f"{source} has images of shape {pipeline.image_shape} (C, H, W), but data.channels="
            f"{cfg.data.channels} and data.image_size={cfg.data.image_size}{encoded} give {shape}: "
            "expected data of the pipeline's shape"
        )
    cfg.network = pipeline.network | {"num_classes": cfg.model.num_classes}
    config = cast(dict[str, Any], OmegaConf.to_container(cfg, resolve=True))
    words = config["command"]["choices"]
    if words["prediction"] != pipeline.prediction_type:
        log.warning(
            "%s was trained with prediction=%s, this run trains with prediction=%s",
            source,
            pipeline.prediction_type,
            words["prediction"],
        )
    if cfg.data.value_range != "minus_one_one" and not encoded:
        log.warning("%s was trained on data.value_range=minus_one_one", source)
    return config


def load_weights(network: nn.Module, pipeline: Pipeline, source: str) -> None:
    """Load the pipeline's weights into a UNet2D; a class embedding keeps its initial weights.

    `source` is the value of init_from=, for the error message.
    """
    assert isinstance(network, UNet2D)
    missing, unexpected = network.unet.load_state_dict(pipeline.weights, strict=False)
    if unexpected or any(not name.startswith("class_embedding.") for name in missing):
        raise UserError(
            f"init_from={source} does not fit the network: expected weights of the same names, but "
            f"these differ: {missing + unexpected}; type init_from=<another pipeline folder>"
        )


def _read_json(folder: Path, name: str, given: str) -> dict[str, Any]:
    try:
        content = json.loads((folder / name).read_text())
    except (OSError, ValueError):
        content = None
    if not isinstance(content, dict):
        raise UserError(
            f"{given} is not the folder of a diffusers pipeline: "
            + (_how_to_use_a_run(folder, given) or f"{name} is missing or damaged")
        )
    return content


def _how_to_use_a_run(folder: Path, given: str) -> str | None:
    """Return advice if `folder` is a run folder or a checkpoint in one; None otherwise.

    `given` is the override that names the folder.
    """
    run = folder.parents[1] if folder.suffix == ".ckpt" else folder
    if not (run / ".hydra" / "config.yaml").is_file():
        return None
    if given.startswith("pipeline="):
        return f"it is a run folder, so type run={run}"
    return (
        f"it is a run folder; export the run with export.py run={run} out=<new folder>, then type "
        "init_from=<new folder> (possible for an unconditional UNet2DModel with a beta schedule, "
        "such as model=ddpm)"
    )
