"""Pipeline for networks trained by diffusion_lab; it works where diffusion_lab is not installed.

This file is copied into exported folders, where diffusers loads it:
`DiffusionPipeline.from_pretrained(folder, trust_remote_code=True)`. It must not import
diffusion_lab.
"""

import json
import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from diffusers import AutoencoderKL, DiffusionPipeline, ImagePipelineOutput, UNet2DModel
from diffusers.models.modeling_utils import ModelMixin
from diffusers.schedulers.scheduling_utils import SchedulerMixin


class DiffusionLabPipeline(DiffusionPipeline):
    """Sample images by denoising x_t = alpha x0 + sigma noise, from pure noise to x0.

    `unet` is a UNet2DModel, or a network that maps (x_t, time, labels) to the shape of x_t. For a
    VP noise schedule, `scheduler` computes each step from the predicted clean image
    (prediction_type "sample"). For other noise schedules, `scheduler` is None and each step is an
    Euler step, x_next = alpha' x0_hat + sigma' noise_hat. The keys of `settings`, which are saved
    in model_index.json:

    - image_shape [C, H, W] of the network, and value_range [black, white] of its images
    - latents, in place of value_range: {mean, std} of each channel, if the network makes
      standardised latents, which `vae` decodes
    - path: the noise schedule, (alpha, sigma) at time t: "vp" (from the scheduler's betas),
      "linear" (1 - t, t) or "ve" (1, t)
    - prediction, the output of the network: sample, epsilon, v_prediction, flow, score, sigma_score
      (sigma times the score) or edm (with sigma_data)
    - noise: "gaussian", or "uniform" on [0, 1]
    - use_time: false if the network always gets time 0
    - num_classes: null, or the number of classes, which is also the index of the null class
    - step, with a scheduler only: keyword arguments of its method `step`, such as {"eta": 0.5}
    - num_inference_steps, guidance_scale: defaults of the call
    - guidance_interval: [low, high] in sigma / alpha, outside of which the scale is 1; or null
    - heun, without a scheduler only: true for Heun's correction of the Euler step, which takes two
      network evaluations per step
    - ve: settings for path "ve", {sigma_min, sigma_max, sigma_data, rho}; steps are evenly spaced
      in sigma^(1/rho), or in log sigma if rho is null
    """

    decoded_at_once = 16  # latents
    model_cpu_offload_seq = "unet->vae"
    _optional_components: ClassVar[list[str]] = ["scheduler", "vae"]  # diffusers reads it

    def __init__(
        self,
        unet: ModelMixin,
        scheduler: SchedulerMixin | None = None,
        settings: dict[str, Any] | None = None,
        vae: AutoencoderKL | None = None,
    ) -> None:
        super().__init__()
        self.register_modules(unet=unet, scheduler=scheduler, vae=vae)
        self.register_to_config(settings=settings)
        # read now, because diffusers overwrites its copy of this file when it loads another folder
        self.source = Path(__file__).read_text()
        self.network_source = _source_of(unet)

    def save_config(
        self, save_directory: str | os.PathLike, push_to_hub: bool = False, **kwargs: Any
    ) -> None:
        """Write model_index.json and the source files of the pipeline and of the network."""
        folder = Path(save_directory)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "pipeline.py").write_text(self.source)
        if self.network_source is not None:
            (folder / "unet").mkdir(exist_ok=True)
            (folder / "unet" / "network.py").write_text(self.network_source)
        super().save_config(save_directory, push_to_hub, **kwargs)

    def to_json_string(self) -> str:
        """Return the text of model_index.json, which refers to the source files of the folder."""
        index = json.loads(super().to_json_string())
        index["_class_name"] = ["pipeline", type(self).__name__]
        if self.network_source is not None:
            network = getattr(self.unet, "_orig_mod", self.unet)  # torch.compile(unet) wraps it
            index["unet"] = ["network", type(network).__name__]
        return json.dumps(index, indent=2) + "\n"

    @torch.no_grad()
    def __call__(
        self,
        batch_size: int = 1,
        class_labels: int | Sequence[int] | None = None,
        guidance_scale: float | None = None,
        num_inference_steps: int | None = None,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
    ) -> ImagePipelineOutput | tuple:
        """Sample `batch_size` images.

        Args:
            batch_size: number of images.
            class_labels: a class, or several classes that are assigned in turn; None for no class.
            guidance_scale: s in x0_hat = x0_null + s (x0_class - x0_null), where x0_null and
                x0_class are the predictions for the null class and for the image's class; 1 is no
                guidance. None for the default of the settings. It has no effect without
                class_labels.
            num_inference_steps: number of steps; None for the default of the settings.
            generator: one generator for all images, or one per image.
            output_type: "pil", "np" (N, H, W, C) in [0, 1] or "pt" (N, C, H, W) in [0, 1].
            return_dict: True returns an ImagePipelineOutput, False a tuple with the images.

        """
        settings, device, dtype = self.config.settings, self._execution_device, self.unet.dtype
        if guidance_scale is None:
            guidance_scale = settings.get("guidance_scale", 1.0)
        if num_inference_steps is None:
            num_inference_steps = settings.get("num_inference_steps", 50)
        if class_labels is None:
            guidance_scale = 1.0  # both branches would be equal
        generators = generator if isinstance(generator, Sequence) else [generator] * batch_size
        if len(generators) != batch_size:
            raise ValueError(
                f"expected one generator per image, got {len(generators)} generators for "
                f"batch_size={batch_size}"
            )
        labels = self._labels(class_labels, batch_size, device)

        draw = torch.rand if settings["noise"] == "uniform" else torch.randn
        shape = settings["image_shape"]
        noise = [draw(shape, generator=g, device=g.device if g else None) for g in generators]
        x = torch.stack(noise).to(device, dtype)
        if settings["path"] == "ve":
            x = x * settings["ve"]["sigma_max"]
        step_options = {**settings.get("step", {}), "generator": generator}
        times, alphas, sigmas = self._path(num_inference_steps, device)

        def denoise(x: torch.Tensor, i: int) -> torch.Tensor:
            return self._denoise(x, times[i], alphas[i], sigmas[i], labels, guidance_scale)

        for i in self.progress_bar(range(len(times))):
            denoised = denoise(x, i)
            if self.scheduler is not None:
                x = self.scheduler.step(denoised, times[i], x, **step_options).prev_sample
                continue
            noise_hat = (x - alphas[i] * denoised) / sigmas[i]
            x_next = alphas[i + 1] * denoised + sigmas[i + 1] * noise_hat
            if settings["heun"] and i + 1 < len(times):
                denoised_next = denoise(x_next, i + 1)
                noise_next = (x_next - alphas[i + 1] * denoised_next) / sigmas[i + 1]
                x_next = (
                    x
                    + (alphas[i + 1] - alphas[i]) * (denoised + denoised_next) / 2
                    + (sigmas[i + 1] - sigmas[i]) * (noise_hat + noise_next) / 2
                )
            x = x_next

        images: Any = self._decode(x).clamp(0, 1)
        if output_type != "pt":
            images = images.cpu().permute(0, 2, 3, 1).float().numpy()
            if output_type == "pil":
                images = self.numpy_to_pil(images)
        self.maybe_free_model_hooks()
        return ImagePipelineOutput(images=images) if return_dict else (images,)

    def _decode(self, x: torch.Tensor) -> torch.Tensor:
        """Convert what the network makes to images, black 0 and white 1."""
        scale = self.config.settings.get("latents")
        if scale is None:
            low, high = self.config.settings["value_range"]
            return (x - low) / (high - low)
        mean, std = (x.new_tensor(scale[key]).view(-1, 1, 1) for key in ("mean", "std"))
        latents = (x * std + mean).to(self.vae.dtype).split(self.decoded_at_once)
        return torch.cat([self.vae.decode(part).sample for part in latents]) / 2 + 0.5

    def _labels(
        self, labels: int | Sequence[int] | None, count: int, device: torch.device
    ) -> torch.Tensor | None:
        """Return one label per image, (B,), the null class if `labels` is None.

        Returns None for a network without classes.
        """
        classes = self.config.settings["num_classes"]
        if classes is None:
            if labels is not None:
                raise ValueError(
                    f"class_labels={labels}: this network has no classes; leave class_labels out"
                )
            return None
        labels = classes if labels is None else labels
        chosen = [labels] if isinstance(labels, int) else list(labels)
        if not chosen or min(chosen) < 0 or max(chosen) > classes:
            raise ValueError(
                f"class_labels={labels}: expected classes from 0 to {classes - 1}, or {classes} "
                "for no class"
            )
        return torch.tensor([chosen[k % len(chosen)] for k in range(count)], device=device)

    def _path(
        self, num_steps: int, device: torch.device
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return the times (num_steps,), noisiest first, and alpha and sigma (num_steps + 1,).

        The last alpha and sigma are those of clean images, 1 and 0.
        """
        if self.scheduler is not None:
            self.scheduler.set_timesteps(num_steps, device=device)
            times = self.scheduler.timesteps
            alpha_bar = self.scheduler.alphas_cumprod.to(device)[times]
            alphas, sigmas = alpha_bar**0.5, (1 - alpha_bar) ** 0.5
        elif self.config.settings["path"] == "linear":
            times = 1 - torch.arange(num_steps, device=device) / num_steps
            alphas, sigmas = 1 - times, times
        else:
            ve = self.config.settings["ve"]
            low, high, rho = ve["sigma_min"], ve["sigma_max"], ve["rho"]
            position = torch.linspace(0, 1, num_steps).flip(0) if num_steps > 1 else torch.ones(1)
            if rho:
                low, high = low ** (1 / rho), high ** (1 / rho)
                times = (low + position * (high - low)) ** rho
            else:
                low, high = math.log(low), math.log(high)
                times = torch.exp(low + position * (high - low))
            times = times.to(device)
            alphas, sigmas = torch.ones_like(times), times
        return (
            times,
            torch.cat([alphas, alphas.new_ones(1)]),
            torch.cat([sigmas, sigmas.new_zeros(1)]),
        )

    def _denoise(
        self,
        x: torch.Tensor,
        t: torch.Tensor,
        alpha: torch.Tensor,
        sigma: torch.Tensor,
        labels: torch.Tensor | None,
        guidance_scale: float,
    ) -> torch.Tensor:
        """Return the predicted clean images, guided if the settings and labels ask for guidance.

        Both branches of guidance are evaluated in one batch.
        """
        interval = self.config.settings.get("guidance_interval")
        outside = interval is not None and not interval[0] <= sigma / alpha <= interval[1]
        if labels is None or guidance_scale == 1 or outside:
            return self._clean(self._network(x, t, labels), x, alpha, sigma)
        null_class = torch.full_like(labels, self.config.settings["num_classes"])
        both = torch.cat([x, x])
        output = self._network(both, t, torch.cat([labels, null_class]))
        of_class, of_null = self._clean(output, both, alpha, sigma).chunk(2)
        return of_null + guidance_scale * (of_class - of_null)

    def _network(
        self, x: torch.Tensor, t: torch.Tensor, labels: torch.Tensor | None
    ) -> torch.Tensor:
        """Return the network's output; `t` is converted to the network's time, from 0 to 1000."""
        settings = self.config.settings
        if settings["path"] == "ve":
            ve = settings["ve"]
            low, high = math.log(ve["sigma_min"]), math.log(ve["sigma_max"])
            x = x * (t**2 + ve["sigma_data"] ** 2) ** -0.5
            t = 1000 * (t.log() - low) / (high - low)
        elif settings["path"] == "linear":
            t = t * 1000
        time = (t if settings["use_time"] else torch.zeros_like(t)).float().expand(len(x))
        if isinstance(self.unet, UNet2DModel):
            return self.unet(x, time, class_labels=labels, return_dict=False)[0]
        return self.unet(x, time, labels)

    def _clean(
        self, output: torch.Tensor, x: torch.Tensor, alpha: torch.Tensor, sigma: torch.Tensor
    ) -> torch.Tensor:
        """Convert the output of the network to predicted clean images."""
        kind = self.config.settings["prediction"]
        if kind == "sample":
            return output
        if kind == "epsilon":
            return (x - sigma * output) / alpha
        if kind == "v_prediction":
            return (alpha * x - sigma * output) / (alpha**2 + sigma**2)
        if kind == "flow":
            return (x - sigma * output) / (alpha + sigma)
        if kind in ("score", "sigma_score"):
            sigma_score = output if kind == "sigma_score" else sigma * output
            return (x + sigma * sigma_score) / alpha
        sigma_data = self.config.settings["sigma_data"]
        variance = sigma**2 + (alpha * sigma_data) ** 2
        c_skip, c_out = alpha * sigma_data**2 / variance, sigma * sigma_data * variance**-0.5
        return c_skip * x + c_out * output


def _source_of(network: ModelMixin) -> str | None:
    """Return the source file of a network's class as text; None for a class of diffusers."""
    name = type(getattr(network, "_orig_mod", network)).__module__
    file = getattr(sys.modules.get(name), "__file__", None)
    return None if name.startswith("diffusers.") or file is None else Path(file).read_text()
