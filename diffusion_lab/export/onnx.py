"""Export of the denoiser as an ONNX file: x_t, t and labels (if any) -> clean images."""

import importlib.util
import logging
import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

from diffusion_lab.diffusion import NoiseSchedule
from diffusion_lab.errors import UserError
from diffusion_lab.modules import DiffusionModule

NEEDED = ("onnx", "onnxruntime", "onnxscript")
CHECKED = (1, 3)
"""Batch sizes at which the ONNX file is compared with torch."""
TOLERANCE = 0.01
"""Largest accepted difference of a denoised pixel from torch's, in the network's value range."""


def check_onnx() -> None:
    """Raise UserError if packages that the ONNX export needs are not installed."""
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(
            f"onnx=true needs {' and '.join(missing)}: type pip install 'diffusion-lab[onnx]', or "
            "in a checkout pip install -e '.[onnx]'"
        )


class _Denoiser(nn.Module):
    def __init__(self, module: DiffusionModule) -> None:
        super().__init__()
        self.module = module

    def forward(self, x_t: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        return self.module.denoise(x_t, t, labels)


def export_onnx(module: DiffusionModule, image_shape: tuple[int, int, int], path: Path) -> float:
    """Write `module.denoise` as an ONNX file and return its largest difference from torch.

    The module must be in evaluation mode. The file takes any batch size. Its inputs: x_t (B, C, H,
    W) float32, t (B,) in the noise schedule's unit (int64 for VP schedules, else float32), labels
    (B,) int64. Raises UserError if the difference of a pixel exceeds TOLERANCE.
    """
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    inputs = _inputs(module, image_shape, 2)
    batch = torch.export.Dim("batch")
    with warnings.catch_warnings():  # torch warns that all inputs share the batch axis
        warnings.simplefilter("ignore")
        torch.onnx.export(
            _Denoiser(module).eval(),
            tuple(inputs.values()),
            str(path),
            input_names=list(inputs),
            output_names=["denoised"],
            dynamic_shapes=tuple({0: batch} for _ in inputs),
            dynamo=True,
            external_data=False,
            verbose=False,
        )
    difference = _difference(module, image_shape, path)
    if not difference <= TOLERANCE:
        raise UserError(
            f"onnx=true: {path.name} differs from torch by {difference:.2g}, expected at most "
            f"{TOLERANCE}: leave out onnx=true to export without an ONNX file"
        )
    return difference


def _difference(module: DiffusionModule, image_shape: tuple[int, int, int], path: Path) -> float:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    differences = []
    for size in CHECKED:
        inputs = _inputs(module, image_shape, size)
        [denoised] = session.run(None, {name: value.numpy() for name, value in inputs.items()})
        with torch.no_grad():
            expected = module.denoise(*inputs.values())
        differences.append((torch.from_numpy(denoised) - expected).abs().max())
    return torch.stack(differences).max().item()  # NaN stays NaN


def _inputs(
    module: DiffusionModule, image_shape: tuple[int, int, int], size: int
) -> dict[str, Tensor]:
    """Return a batch of test inputs by name: `size` all-zero images, noised at different times."""
    schedule: NoiseSchedule = module.noise_schedule
    generator = torch.Generator().manual_seed(size)
    t = schedule.at((torch.arange(size) + 0.5) / size)
    x0 = torch.zeros(size, *image_shape)
    inputs = {"x_t": schedule.add_noise(x0, schedule.draw_noise(x0, generator), t), "t": t}
    if module.num_classes is not None:
        inputs["labels"] = torch.arange(size) % module.num_classes
    return inputs
