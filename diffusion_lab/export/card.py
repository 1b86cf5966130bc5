"""Model card of an exported run: description, loading code, metrics and origin."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from diffusion_lab.data.shape import image_shape
from diffusion_lab.diffusion import DiffusersSampler
from diffusion_lab.diffusion.guidance import EVERYWHERE
from diffusion_lab.export.folder import Export

TASK = "unconditional-image-generation"  # the Hub has no task for class-conditional images
DATA_TERMS = {
    "mnist": "MNIST (Yann LeCun, Corinna Cortes, Christopher Burges), commonly said to be under "
    "CC BY-SA 3.0: see the data set's own terms",
    "fashion_mnist": "Fashion-MNIST (Zalando), MIT licence",
    "kmnist": "KMNIST (ROIS-DS Center for Open Data in the Humanities), CC BY-SA 4.0",
    "fake": "synthetic images of diffusion_lab, without copyright",
}
GROUPS = (
    "model",
    "network",
    "noise_schedule",
    "prediction",
    "weighting",
    "time_sampling",
    "pairing",
    "optimizer",
)
MACHINE = ("paths.", "hydra", "logger", "callbacks", "latents", "data.latents")
SAMPLER_WORDS = {
    "BlendSampler": "blend",
    "HeunSampler": "heun",
    "DDIMScheduler": "ddim",
    "DDPMScheduler": "ddpm",
}


def sampler_words(export: Export) -> str:
    """Return the overrides of scripts/sample.py that give an exported pipeline's sampler.

    Guidance settings are included, as in "sampler=ddim sampler.num_steps=50 guidance_scale=2".
    """
    sampler, conditioning = export.sampler, export.conditioning
    overrides = [f"sampler={SAMPLER_WORDS[sampler.name]}", f"sampler.num_steps={sampler.num_steps}"]
    if isinstance(sampler, DiffusersSampler):
        settings = sampler.config | {"eta": sampler.eta}
        overrides += [
            f"sampler.{key}={str(value).lower()}"
            for key, value in settings.items()
            if key != "prediction_type" and value is not None
        ]
    if conditioning.guidance_scale != 1:
        overrides.append(f"guidance_scale={conditioning.guidance_scale:g}")
    if conditioning.interval != EVERYWHERE:
        overrides.append(
            f"guidance_interval={conditioning.interval[0]:g},{conditioning.interval[1]:g}"
        )
    return " ".join(overrides)


def loading_lines(export: Export, where: str, num_classes: int | None) -> str:
    """Return three lines of Python that load an exported pipeline and sample images.

    `where` is the folder or Hub repository, `num_classes` None for an unconditional pipeline.
    """
    name = type(export.pipeline).__name__ if export.stock else "DiffusionPipeline"
    trust = "" if export.stock else ", trust_remote_code=True"
    call = [f"num_inference_steps={export.sampler.num_steps}"]
    if eta := getattr(export.sampler, "eta", None):
        call += [f"eta={eta}"] if export.stock else []
    if num_classes is None:
        call.insert(0, "batch_size=8")
    else:
        call[:0] = [f"batch_size={num_classes}", f"class_labels=range({num_classes})"]
    return (
        f"from diffusers import {name}\n"
        f"pipe = {name}.from_pretrained({json.dumps(where)}{trust})\n"
        f"images = pipe({', '.join(call)}).images\n"
    )


def model_card(
    export: Export,
    config: Mapping[str, Any],
    record: Mapping[str, Any],
    *,
    where: str,
    license: str,
    checkpoint: str,
    weights: str,
    onnx_difference: float | None,
) -> str:
    """Return the text of the model card, with its YAML front matter.

    `config` is the run's configuration, `record` the run's metrics.json, `where` the folder or
    repository in the loading code. `onnx_difference` is the largest difference of the ONNX file
    from torch; None without an ONNX file.
    """
    choices, data = config["command"]["choices"], config["data"]
    dataset, num_classes = data["name"], config["model"].get("num_classes")
    title = f"{choices['model']} on {dataset}"
    measured = record.get("metrics") or {}
    # metrics without a prefix, such as lr, do not describe the model
    metrics = {k: v for k, v in measured.items() if "/" in k and v is not None}
    front = ModelCardData(
        license=license,
        library_name="diffusers",
        pipeline_tag=TASK,
        tags=["diffusion", "diffusion-lab", choices["model"]],
        datasets=None if dataset == "fake" else [dataset],
        model_name=title,
        eval_results=[
            EvalResult(TASK, dataset, dataset, name, value, metric_name=name)
            for name, value in metrics.items()
            if name.startswith("val/")  # the Hub shows these as results on the data set
        ]
        or None,
    )
    shape = " x ".join(map(str, image_shape(data)))
    parts = [
        f"---\n{front.to_yaml()}\n---\n\n# {title}\n",
        f"Generates images of {shape} pixels{_of_classes(num_classes)}.\n",
        f"```python\n{loading_lines(export, where, num_classes)}```\n",
        _how_it_loads(export),
        f"## Metrics\n\n{_metrics(record, metrics)}",
        f"## Training\n\n{_table(_training(config, record, checkpoint, weights))}",
        f"## Data\n\n{_table(record.get('data') or {'dataset': dataset})}",
        f"## Licence\n\nWeights and code: {license}. Data: "
        f"{DATA_TERMS.get(dataset, 'see the terms of ' + dataset)}.\n",
    ]
    if onnx_difference is not None:
        labels = "" if num_classes is None else f", labels (B,) int64, {num_classes} for no class"
        parts.insert(
            4,
            f"## ONNX\n\n`denoiser.onnx` is (x_t (B, C, H, W) float32, t (B,) {_unit(export)}"
            f"{labels}) -> the predicted clean {_outputs(data)}. Its results in onnxruntime "
            f"differ from torch's by at most {onnx_difference:.1e}.\n",
        )
    return "\n".join(parts)


def _values(data: Mapping[str, Any]) -> str:
    """Describe the values of the network."""
    if not (vae := data.get("latents")):
        return str(data["value_range"])
    # not a path of the machine that trained
    return f"standardised latents of {'the VAE in vae/' if Path(vae).is_absolute() else vae}"


def _outputs(data: Mapping[str, Any]) -> str:
    return "standardised latents" if data.get("latents") else "images"


def _unit(export: Export) -> str:
    """Return the type and unit of the time t that the ONNX denoiser takes, in words."""
    if export.pipeline.scheduler is not None:
        return "int64, a timestep of the scheduler"
    straight = export.pipeline.config.settings["path"] == "linear"
    return "float32 from 0 (clean) to 1 (noise)" if straight else "float32, the noise level sigma"


def _of_classes(num_classes: int | None) -> str:
    if num_classes is None:
        return ""
    return (
        f" of {num_classes} classes; `guidance_scale=` above 1 makes images more typical of their "
        "class"
    )


def _how_it_loads(export: Export) -> str:
    own = (
        ""
        if export.stock
        else "`trust_remote_code=True` lets diffusers run this repository's `pipeline.py`"
        + (" and `unet/network.py`. " if export.network_source else ". ")
    )
    scale = export.conditioning.guidance_scale
    guided = "" if scale == 1 else f"With `class_labels=` the default guidance scale is {scale:g}. "
    substitute = (
        ""
        if export.exact
        else "No pipeline supports the run's own sampler; a deterministic sampler replaces it. "
    )
    return (
        f"{own}{guided}{substitute}A list of generators, one per image, fixes each image's noise. "
        "The same steps in diffusion_lab: `python scripts/sample.py run=... "
        f"{sampler_words(export)}`.\n"
    )


def _metrics(record: Mapping[str, Any], metrics: Mapping[str, Any]) -> str:
    if not metrics:
        return "No metrics were recorded.\n"
    best = {f"best {name}": value for name, value in (record.get("best") or {}).items()}
    return f"Recorded at the end of the run.\n\n{_table({**metrics, **best})}"


def _training(
    config: Mapping[str, Any], record: Mapping[str, Any], checkpoint: str, weights: str
) -> dict[str, Any]:
    choices = config["command"]["choices"]
    versions = record.get("versions") or {}
    facts = {group: choices.get(group) for group in GROUPS} | {
        "value range": _values(config["data"]),
        "weights": f"{weights} of checkpoint {checkpoint}",
        "parameters": record.get("parameters"),
        "steps": record.get("steps"),
        "seed": config["seed"],
        "commit": record.get("git_commit"),
        "versions": ", ".join(f"{name} {number}" for name, number in versions.items()),
        "overrides": " ".join(
            override
            for override in config["command"]["overrides"]
            if not override.startswith(MACHINE)  # not about the model
        ),
    }
    return {name: value for name, value in facts.items() if value not in (None, "")}


def _table(rows: Mapping[str, Any]) -> str:
    """Return a Markdown table of two columns."""

    def cell(value: Any) -> str:
        return (f"{value:.4g}" if isinstance(value, float) else str(value)).replace("|", "\\|")

    lines = [f"| {cell(name)} | {cell(value)} |" for name, value in rows.items() if value != ""]
    return "\n".join(["| | |", "|---|---|", *lines]) + "\n"
