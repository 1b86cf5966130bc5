"""OmegaConf resolvers of the YAML files, and the registration of schemas and resolvers."""

import re
import secrets
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from diffusion_lab.config import schema
from diffusion_lab.config.search_path import register_user_folders
from diffusion_lab.data.latents.vae import absolute_name, find_vae
from diffusion_lab.networks.image_size import height_and_width

_LONGEST_NAME = 120  # file systems allow 255 bytes


def swept_keys(sweep_dir: Path) -> set[str] | None:
    """Return the names of the options that a sweep varies; None if they cannot be read.

    The names are read from multirun.yaml in the sweep's folder.
    """
    try:
        saved = OmegaConf.load(sweep_dir / "multirun.yaml")
        typed = OverridesParser.create().parse_overrides(list(saved.hydra.overrides.task))
        params = OmegaConf.select(saved, "hydra.sweeper.params") or {}
    except Exception:  # any error of the YAML parser
        return None
    keys = {word.get_key_element() for word in typed if word.is_sweep_override()}
    return keys | {str(key) for key in params}


def swept(overrides: Sequence[str], sweep_dir: Path) -> list[str]:
    """Return those of a job's overrides that differ between the jobs of its sweep.

    Returns all overrides if the sweep's multirun.yaml cannot be read.
    """
    keys = swept_keys(sweep_dir)
    return [w for w in overrides if keys is None or w.partition("=")[0] in keys]


def tensorboard_name(run_dir: str) -> str:
    """Return the subfolder of a run folder for TensorBoard's files; "" for the run folder itself.

    TensorBoard shows the path of the subfolder as the run's name. The run folder of a sweep's job
    is only a number, so the subfolder is named after the options that the sweep varies:
    `model=ddpm,seed=1`. If the run has TensorBoard files already, their folder is returned, so that
    a resumed run adds to them.
    """
    folder = Path(run_dir)
    if any(folder.glob("events.out.tfevents*")):
        return ""
    for file in sorted(folder.glob("*/events.out.tfevents*")):
        return file.parent.name
    sweep_dir = folder.parent
    if not folder.name.isdecimal() or not (sweep_dir / "multirun.yaml").is_file():
        return ""
    try:
        overrides = OmegaConf.load(folder / ".hydra" / "overrides.yaml")
    except (OSError, ValueError):
        return ""
    name = ",".join(swept([str(word) for word in overrides], sweep_dir))
    return re.sub(r"[^\w.,=+@-]+", "-", name).lstrip(".")[:_LONGEST_NAME]


def network_channels(channels: int, latents: str | None) -> int:
    """Return the channels of what the network gets: images, or their latents."""
    return find_vae(latents).latent_channels if latents else channels


def network_size(image_size: Any, latents: str | None) -> Any:
    """Return the size of what the network gets: images, or their latents.

    A side, or (height, width). Raises UserError for a size that the VAE cannot take.
    """
    if not latents:
        return image_size
    vae = find_vae(latents)
    _, height, width = vae.latent_shape((vae.channels, *height_and_width(image_size)))
    # a plain list is no value that OmegaConf.resolve can write
    return height if height == width else OmegaConf.create([height, width])


_OF_LATENTS: dict[str, Callable[..., Any]] = {
    "absolute_folder": absolute_name,
    "network_channels": network_channels,
    "network_size": network_size,
}


def register(command: str) -> None:
    """Register a command's schemas, the user's option folders and the resolvers.

    May be called repeatedly in a process, because every job of a sweep calls this function.
    """
    schema.register(command)
    register_user_folders()
    OmegaConf.register_new_resolver(
        "run_id", lambda: secrets.token_hex(3), use_cache=True, replace=True
    )
    OmegaConf.register_new_resolver("tensorboard_name", tensorboard_name, replace=True)
    for name, function in _OF_LATENTS.items():
        OmegaConf.register_new_resolver(name, function, replace=True)
