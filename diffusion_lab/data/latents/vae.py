"""The VAE that latents= names: where its files lie, and what images it takes. Imports no torch."""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from diffusion_lab.errors import UserError, reason_of

if TYPE_CHECKING:
    from diffusers import AutoencoderKL

CONFIG = "config.json"
WEIGHTS = "diffusion_pytorch_model.safetensors"
_HUB_NAME = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)(?:/(?P<folder>[\w.-]+(?:/[\w.-]+)*))?")
_KIND = "AutoencoderKL"


@dataclass(frozen=True)
class VAE:
    """An AutoencoderKL of diffusers, whose weights are read by `load` only.

    Attributes:
        name: its folder or its name on the Hub, as in latents=.
        channels: channels of the images.
        latent_channels: channels of the latents.
        factor: pixels per latent along a side, a power of two.

    """

    name: str
    channels: int
    latent_channels: int
    factor: int

    def latent_shape(self, image_shape: tuple[int, int, int]) -> tuple[int, int, int]:
        """Return the shape (C, H, W) of the latents of images (C, H, W).

        Raises UserError for another number of channels, and for sides that cannot be halved as
        often as the VAE does.
        """
        channels, *sides = image_shape
        if channels != self.channels:
            raise UserError(
                f"data.channels={channels}: the VAE of latents={self.name} takes images with "
                f"{_channels(self.channels)}; expected such a data set, or a VAE for "
                f"{_channels(channels)}"
            )
        if any(side % self.factor for side in sides):
            fit = [max(1, -(-side // self.factor)) * self.factor for side in sides]
            raise UserError(
                f"data.image_size={_size(sides)}: the VAE of latents={self.name} makes one latent "
                f"of {self.factor} x {self.factor} pixels; expected multiples of {self.factor}, "
                f"for example data.image_size={_size(fit)}"
            )
        return self.latent_channels, sides[0] // self.factor, sides[1] // self.factor

    @cached_property
    def sha256(self) -> str:
        """Hash of its two files, config.json first. Raises UserError without weights."""
        digest = hashlib.sha256()
        for file in (_find(self.name, CONFIG), self.weights):
            with file.open("rb") as stream:
                digest.update(hashlib.file_digest(stream, "sha256").digest())
        return digest.hexdigest()

    @property
    def weights(self) -> Path:
        """The file of the weights, downloaded if the VAE is on the Hub.

        Raises UserError if there is no such file.
        """
        return _find(self.name, WEIGHTS)

    def load(self) -> "AutoencoderKL":
        """Read the weights, from safetensors only; in evaluation mode, on the CPU, float32.

        Random states are unchanged. Raises UserError for a damaged file.
        """
        import torch
        from diffusers import AutoencoderKL
        from diffusers.utils import logging

        folder = self.weights.parent
        verbosity = logging.get_verbosity()
        logging.set_verbosity_error()  # what it would warn of is an error here
        try:
            with torch.random.fork_rng(devices=[]):
                vae, report = AutoencoderKL.from_pretrained(
                    folder,
                    use_safetensors=True,
                    local_files_only=True,
                    low_cpu_mem_usage=False,
                    output_loading_info=True,
                )
        except (OSError, ValueError, RuntimeError, TypeError, KeyError) as error:
            raise UserError(
                f"latents={self.name}: the VAE in {folder} cannot be loaded ({reason_of(error)}): "
                "expected the files of AutoencoderKL.save_pretrained"
            ) from error
        finally:
            logging.set_verbosity(verbosity)
        if strange := [*report["missing_keys"], *report["unexpected_keys"]]:
            raise UserError(
                f"latents={self.name}: {folder / WEIGHTS} does not fit its {CONFIG} "
                f"({len(strange)} weights, such as {strange[0]}): expected the files of "
                "AutoencoderKL.save_pretrained"
            )
        return vae.eval().requires_grad_(False)


def _size(sides: list[int]) -> int | str:
    """Return a size as data.image_size= takes it."""
    return sides[0] if sides[0] == sides[1] else f"[{sides[0]},{sides[1]}]"


def _channels(count: int) -> str:
    return f"{count} channel{'' if count == 1 else 's'}"


def find_vae(name: str) -> VAE:
    """Find the VAE of latents=, in a folder or on the Hub; only its config.json is read.

    `name` is a folder, a repository of the Hub (owner/name), or a folder in one
    (owner/name/folder). Raises UserError if there is none, or if it is no AutoencoderKL.
    """
    file = _find(name, CONFIG)
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(
            f"latents={name}: {file} cannot be read ({reason_of(error)}): expected the files of "
            "AutoencoderKL.save_pretrained"
        ) from error
    kind = config.get("_class_name") if isinstance(config, Mapping) else None
    if kind != _KIND:
        raise UserError(
            f"latents={name} holds {kind or 'no model of diffusers'}: expected an {_KIND}, as its "
            "save_pretrained writes it"
        )
    numbers = [config.get(key) for key in ("in_channels", "out_channels", "latent_channels")]
    levels = config.get("block_out_channels")
    fits = all(type(number) is int and number > 0 for number in numbers)
    if not fits or numbers[0] != numbers[1] or not isinstance(levels, list) or not levels:
        raise UserError(
            f"latents={name}: {file} does not describe a VAE of images: expected in_channels, "
            "equal out_channels, latent_channels and block_out_channels"
        )
    return VAE(name, numbers[0], numbers[2], 2 ** (len(levels) - 1))


def absolute_name(name: str | None) -> str | None:
    """Return the absolute path of a folder; any other name, such as one of the Hub, unchanged."""
    if not name or not (folder := Path(name).expanduser()).is_dir():
        return name
    return str(folder.absolute())


def _find(name: str, file: str) -> Path:
    """Return the path of a VAE's file, downloaded if necessary; UserError if it does not exist."""
    folder = Path(name).expanduser()
    if folder.is_dir():
        if (folder / file).is_file():
            return folder / file
        if (folder / "vae" / file).is_file():
            raise UserError(
                f"latents={name} is the folder of a pipeline: type its VAE, latents={name}/vae"
            )
        pickled = "; pickled weights are not read" if any(folder.glob("*.bin")) else ""
        raise UserError(
            f"latents={name} has no {file}: expected a folder written by {_KIND}.save_pretrained"
            f"{pickled}"
        )
    match = _HUB_NAME.fullmatch(name)
    if match is None:
        raise UserError(
            f"latents={name}: no such folder; expected one written by {_KIND}.save_pretrained, or "
            "a name on the Hugging Face Hub such as stabilityai/sd-vae-ft-mse"
        )
    return _download(match["repo"], match["folder"], file)


@cache
def _download(repo: str, folder: str | None, file: str) -> Path:
    """Return the cached copy of a file on the Hub, after a download if there is none."""
    from huggingface_hub import hf_hub_download, try_to_load_from_cache
    from huggingface_hub.utils import logging

    path = file if folder is None else f"{folder}/{file}"
    cached = try_to_load_from_cache(repo, path)
    if isinstance(cached, str):  # the weights of a run must not change under it
        return Path(cached)
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # no warning per attempt
    try:
        return Path(hf_hub_download(repo, path))
    except Exception as error:  # of the Hub, the network or the name
        name = repo if folder is None else f"{repo}/{folder}"
        raise UserError(
            f"latents={name}: there is no such folder, and {file} cannot be downloaded from the "
            f"Hugging Face Hub ({reason_of(error)}): check the name and the network, or type the "
            f"folder of an {_KIND}"
        ) from error
    finally:
        logging.set_verbosity(verbosity)
