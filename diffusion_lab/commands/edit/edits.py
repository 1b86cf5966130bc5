"""The kinds of edits: inpainting, image to image, inversion and interpolation."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from diffusion_lab.commands.edit.input_images import read_mask
from diffusion_lab.config.schema import (
    EditConfig,
    ImageToImageConfig,
    InpaintConfig,
    InterpolateConfig,
)
from diffusion_lab.diffusion import Denoise
from diffusion_lab.diffusion.editing import (
    check_resamplings,
    decode,
    encode,
    image_to_image,
    inpaint,
    interpolate,
    noised,
    strength_times,
)
from diffusion_lab.diffusion.samplers.base import image_generators
from diffusion_lab.errors import UserError
from diffusion_lab.runs.load import Run
from diffusion_lab.sampling.conditioning import Conditioning
from diffusion_lab.sampling.figures import visible_at
from diffusion_lab.sampling.progress import advance

SHOWN = 16  # largest number of images, pairs of images or rows in the figure


@dataclass
class Edited:
    """Results of editing N images."""

    original: Tensor
    """uint8, (N, C, H, W), on the CPU."""
    edited: Tensor
    """uint8, (N, results per image, C, H, W); for an interpolation N is the number of pairs."""
    rows: dict[str, Tensor]
    """Rows of the figure: name -> images in [0, 1], (columns, C, H, W)."""
    result_name: str = ""
    """Row name of the sampled results in the figure; "" if `rows` holds the results already."""
    more: dict[str, Tensor] = field(default_factory=dict)
    """Further arrays for edit.npz."""
    measured: dict[str, float] = field(default_factory=dict)
    """Quantities to print and to record in edit.json."""
    out: Path = Path()
    """The folder with edit.png, edit.npz and edit.json."""

    @property
    def lines(self) -> list[str]:
        """The lines to print."""
        return [f"{name}: {value:.4f}" for name, value in self.measured.items()]


class Edit(ABC):
    """Base class of the kinds of edits.

    `__init__` raises UserError for unsuitable options, so that mistakes are found before any work.
    """

    schema: type[EditConfig] = EditConfig

    def __init__(self, cfg: DictConfig, run: Run, names: list[str], pixels: Tensor) -> None:
        self.cfg, self.run, self.names, self.pixels = cfg, run, names, pixels
        self.conditioning = _conditioning(cfg, run)
        self.schedule, self.value_range = run.module.noise_schedule, run.value_range

    @abstractmethod
    def __call__(self, x0: Tensor) -> Edited:
        """Edit the encoded images x0 (N, C, H, W), on the module's device."""

    def denoiser(self, first: int, count: int = 1) -> Denoise:
        """Return a denoiser conditioned on the classes of `count` results, from number `first`.

        The classes come from labels=. With count=1 the denoiser accepts batches of any size, and
        all images of a batch have the class of result `first`.
        """
        return self.conditioning.denoiser(self.run.module, first, count)

    def unit(self, x: Tensor) -> Tensor:
        """Map images from the network's value range to [0, 1], on the CPU."""
        return self.value_range.to_unit(x).cpu()

    def reconstruction_error(self, x: Tensor, x0: Tensor) -> dict[str, float]:
        """Return the RMSE between x and x0, both mapped to [0, 1]: printed name -> value."""
        error = (self.unit(x) - self.unit(x0)).square().mean().sqrt().item()
        return {"reconstruction error (RMSE, pixels in [0, 1])": error}


class SampledEdit(Edit):
    """An edit with several random results per image; result j has the same noise for all images."""

    @abstractmethod
    def sample(
        self, denoise: Denoise, images: Tensor, generators: Sequence[torch.Generator]
    ) -> Tensor:
        """Sample a result for each of B copies of one image, (B, C, H, W) -> (B, C, H, W)."""

    def results(self, x0: Tensor) -> Tensor:
        """Sample the results of all images: uint8, (N, num_samples, C, H, W), on the CPU."""
        count = self.cfg.num_samples
        results = []
        for k, image in enumerate(x0):
            results.append(
                self.sample(
                    self.denoiser(k),
                    image.expand(count, *image.shape),
                    image_generators(self.cfg.seed, 0, count),
                )
            )
            advance(1)
        return self.value_range.decode(torch.stack(results)).cpu()


class Inpaint(SampledEdit):
    """Resample the masked pixels to match the rest (RePaint, Lugmayr et al. 2022)."""

    schema = InpaintConfig

    def __init__(self, cfg: DictConfig, run: Run, names: list[str], pixels: Tensor) -> None:
        super().__init__(cfg, run, names, pixels)
        check_resamplings(self.schedule, cfg.num_steps, cfg.resamplings, cfg.jump_length)
        self.known = read_mask(cfg.mask, run.image_shape)

    def sample(
        self, denoise: Denoise, images: Tensor, generators: Sequence[torch.Generator]
    ) -> Tensor:
        return inpaint(
            denoise,
            self.schedule,
            images,
            self.value_range.known(self.known).to(images.device),
            num_steps=self.cfg.num_steps,
            generators=generators,
            resamplings=self.cfg.resamplings,
            jump_length=self.cfg.jump_length,
        )

    def __call__(self, x0: Tensor) -> Edited:
        edited = self.results(x0)
        masked = torch.where(self.known, self.unit(x0), 0.5)
        rows = {"original": self.unit(x0), "masked": masked}
        return Edited(self.pixels, edited, rows, "inpainted", more={"known": self.known})


class ImageToImage(SampledEdit):
    """Add noise up to a strength and denoise from there (SDEdit, Meng et al. 2022)."""

    schema = ImageToImageConfig

    def __init__(self, cfg: DictConfig, run: Run, names: list[str], pixels: Tensor) -> None:
        super().__init__(cfg, run, names, pixels)
        self.first_time = strength_times(self.schedule, cfg.strength, cfg.num_steps)[:1]

    def sample(
        self, denoise: Denoise, images: Tensor, generators: Sequence[torch.Generator]
    ) -> Tensor:
        return image_to_image(
            denoise,
            self.schedule,
            images,
            strength=self.cfg.strength,
            num_steps=self.cfg.num_steps,
            generators=generators,
        )

    def __call__(self, x0: Tensor) -> Edited:
        edited = self.results(x0)
        t = self.first_time.to(x0.device)
        x_t = torch.cat(
            [noised(self.schedule, x[None], t, image_generators(self.cfg.seed, 0, 1)) for x in x0]
        )
        begin = visible_at(x_t, t[0], self.schedule, self.value_range).cpu()
        rows = {"original": self.unit(x0), "noised": begin}
        return Edited(self.pixels, edited, rows, "result")


class Invert(Edit):
    """Encode images to noise by the probability-flow ODE and decode them again."""

    def __call__(self, x0: Tensor) -> Edited:
        num_steps = self.cfg.num_steps
        denoise = self.denoiser(0, len(x0))
        noise = encode(denoise, self.schedule, x0, num_steps=num_steps)
        x = decode(denoise, self.schedule, noise, num_steps=num_steps)
        t = self.schedule.timesteps(1).to(x0.device)
        x_t = noise * self.schedule.init_noise_sigma
        rows = {
            "original": self.unit(x0),
            "encoded": visible_at(x_t, t[0], self.schedule, self.value_range).cpu(),
            "decoded": self.unit(x),
        }
        return Edited(
            self.pixels,
            self.value_range.decode(x).cpu()[:, None],
            rows,
            more={"noise": noise.cpu()},
            measured=self.reconstruction_error(x, x0),
        )


class Interpolate(Edit):
    """Interpolate between pairs of images in the noise space of the probability-flow ODE."""

    schema = InterpolateConfig

    def __init__(self, cfg: DictConfig, run: Run, names: list[str], pixels: Tensor) -> None:
        super().__init__(cfg, run, names, pixels)
        if len(pixels) % 2:
            raise UserError(
                f"images={cfg.images}: expected an even number of images, got {len(pixels)}, "
                "because edit=interpolate works on pairs; type for example images=[a.png,b.png]"
            )

    def __call__(self, x0: Tensor) -> Edited:
        cfg, pairs = self.cfg, x0.view(-1, 2, *x0.shape[1:])
        between = []
        for k, (first, second) in enumerate(pairs):
            between.append(
                interpolate(
                    self.denoiser(k),
                    self.schedule,
                    first,
                    second,
                    num_points=cfg.num_points,
                    num_steps=cfg.num_steps,
                )
            )
            advance(2)
        x = torch.stack(between)
        rows = {
            f"{self.names[2 * k]} to {self.names[2 * k + 1]}": self.unit(
                _thinned(torch.cat([pair[:1], frames, pair[1:]]))
            )
            for k, (pair, frames) in enumerate(zip(pairs, x, strict=True))
        }
        return Edited(
            self.pixels,
            self.value_range.decode(x).cpu(),
            rows,
            measured=self.reconstruction_error(x[:, [0, -1]], pairs),
        )


EDITS: dict[str, type[Edit]] = {
    "image_to_image": ImageToImage,
    "inpaint": Inpaint,
    "interpolate": Interpolate,
    "invert": Invert,
}


def _thinned(images: Tensor) -> Tensor:
    """Pick at most SHOWN of the images (N, C, H, W), evenly spaced, first and last included."""
    chosen = torch.linspace(0, len(images) - 1, min(SHOWN, len(images))).round().long()
    return images[chosen.to(images.device)]


def _conditioning(cfg: DictConfig, run: Run) -> Conditioning:
    settings = cast(dict[str, Any], OmegaConf.to_container(cfg))
    return Conditioning.of(run.module, settings["labels"], settings["guidance_scale"])
