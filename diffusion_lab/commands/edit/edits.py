"""The kinds of edits: what each does with images, and what its picture shows."""

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

SHOWN = 16  # images, pairs of images or rows in the picture


@dataclass
class Edited:
    """What became of N images."""

    original: Tensor
    """uint8, (N, C, H, W), on the CPU."""
    edited: Tensor
    """uint8, (N, results of one image, C, H, W); of an interpolation N is the number of pairs."""
    rows: dict[str, Tensor]
    """The picture: the name of a row and its images in [0, 1], (columns, C, H, W)."""
    drawn: str = ""
    """Name of the results in the picture, where there are several; "" where `rows` has them."""
    more: dict[str, Tensor] = field(default_factory=dict)
    """What else goes into edit.npz."""
    measured: dict[str, float] = field(default_factory=dict)
    """What is printed and recorded."""
    out: Path = Path()
    """The folder with edit.png, edit.npz and edit.json."""

    @property
    def lines(self) -> list[str]:
        """What is printed."""
        return [f"{name}: {value:.4f}" for name, value in self.measured.items()]


class Edit(ABC):
    """One kind of edit. Made before anything is done or written: mistakes show in __init__."""

    schema: type[EditConfig] = EditConfig

    def __init__(self, cfg: DictConfig, run: Run, names: list[str], pixels: Tensor) -> None:
        self.cfg, self.run, self.names, self.pixels = cfg, run, names, pixels
        self.conditioning = _conditioning(cfg, run)
        self.schedule, self.value_range = run.module.noise_schedule, run.value_range

    @abstractmethod
    def __call__(self, x0: Tensor) -> Edited:
        """Edit the encoded images x0 (N, C, H, W), on the module's device."""

    def denoiser(self, first: int, count: int = 1) -> Denoise:
        """For the classes of results first .. first + count - 1; one goes for any batch."""
        return self.conditioning.denoiser(self.run.module, first, count)

    def unit(self, x: Tensor) -> Tensor:
        """Values of the network's range as values of a picture, on the CPU."""
        return self.value_range.to_unit(x).cpu()

    def reconstruction_error(self, x: Tensor, x0: Tensor) -> dict[str, float]:
        """How far x is from x0 in the root mean square, pixels in [0, 1]."""
        error = (self.unit(x) - self.unit(x0)).square().mean().sqrt().item()
        return {"reconstruction error (RMSE, pixels in [0, 1])": error}


class Draw(Edit):
    """An edit that draws several results of each image; sample j of all begins at noise j."""

    @abstractmethod
    def draw(
        self, denoise: Denoise, images: Tensor, generators: Sequence[torch.Generator]
    ) -> Tensor:
        """One result of each of the images (B, C, H, W), all alike."""

    def results(self, x0: Tensor) -> Tensor:
        """uint8, (N, num_samples, C, H, W), on the CPU."""
        count = self.cfg.num_samples
        drawn = []
        for k, image in enumerate(x0):
            drawn.append(
                self.draw(
                    self.denoiser(k),
                    image.expand(count, *image.shape),
                    image_generators(self.cfg.seed, 0, count),
                )
            )
            advance(1)
        return self.value_range.decode(torch.stack(drawn)).cpu()


class Inpaint(Draw):
    """The pixels of a mask painted anew."""

    schema = InpaintConfig

    def __init__(self, cfg: DictConfig, run: Run, names: list[str], pixels: Tensor) -> None:
        super().__init__(cfg, run, names, pixels)
        check_resamplings(self.schedule, cfg.num_steps, cfg.resamplings, cfg.jump_length)
        self.known = read_mask(cfg.mask, run.image_shape)

    def draw(
        self, denoise: Denoise, images: Tensor, generators: Sequence[torch.Generator]
    ) -> Tensor:
        return inpaint(
            denoise,
            self.schedule,
            images,
            self.known.to(images.device),
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


class ImageToImage(Draw):
    """The images noised to a strength and denoised."""

    schema = ImageToImageConfig

    def __init__(self, cfg: DictConfig, run: Run, names: list[str], pixels: Tensor) -> None:
        super().__init__(cfg, run, names, pixels)
        self.first_time = strength_times(self.schedule, cfg.strength, cfg.num_steps)[:1]

    def draw(
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
    """The images encoded to noise and decoded again."""

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
    """From one image to another by the noise they come from."""

    schema = InterpolateConfig

    def __init__(self, cfg: DictConfig, run: Run, names: list[str], pixels: Tensor) -> None:
        super().__init__(cfg, run, names, pixels)
        if len(pixels) % 2:
            raise UserError(
                f"images={cfg.images} are {len(pixels)}: edit=interpolate goes from the first to "
                "the second, from the third to the fourth; expected an even number, [a.png,b.png]"
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
    """At most SHOWN of the images (N, C, H, W), evenly, with the first and the last."""
    chosen = torch.linspace(0, len(images) - 1, min(SHOWN, len(images))).round().long()
    return images[chosen.to(images.device)]


def _conditioning(cfg: DictConfig, run: Run) -> Conditioning:
    settings = cast(dict[str, Any], OmegaConf.to_container(cfg))
    return Conditioning.of(run.module, settings["labels"], settings["guidance_scale"])
