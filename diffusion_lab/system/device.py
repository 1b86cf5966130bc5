"""Choice of the device, checks of a GPU, and the TF32 setting."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

import lightning as L
import torch

from diffusion_lab.errors import UserError


def choose_device(accelerator: str) -> torch.device:
    """Return the device that Lightning chooses for auto, cpu, gpu or mps, and turn TF32 off.

    Only training uses TF32; every other command multiplies in full float32. Raises UserError if
    the device does not exist or torch cannot use it.
    """
    device = find_device(accelerator)
    check_gpu(device)
    use_tf32(False)
    return device


def find_device(accelerator: str) -> torch.device:
    """Return the device that Lightning chooses for auto, cpu, gpu or mps.

    Does not initialize a GPU, so the process can still be forked. Raises UserError if the device
    does not exist.
    """
    try:
        return L.Fabric(accelerator=accelerator, devices=1).device
    except (RuntimeError, ValueError, ImportError) as error:
        reason = str(error).splitlines()[0]
        if accelerator in ("gpu", "cuda") and (why := why_no_gpu()):
            reason = f"{why}."
        raise UserError(
            f"accelerator={accelerator}: {reason} Use accelerator=cpu, gpu or auto."
        ) from error


def why_no_gpu() -> str | None:
    """Return the reason why torch cannot use an NVIDIA GPU, or None if it can."""
    if torch.version.cuda is None and torch.version.hip is None:
        return (
            f"torch {torch.__version__} is a build without CUDA, so it cannot use a GPU even if "
            "this machine has one: install a build with CUDA, see docs/gpu.md"
        )
    if torch.cuda.is_available():
        return None
    try:
        torch.cuda.init()
    except (RuntimeError, AssertionError) as error:
        reason = str(error).strip().splitlines()[0].split(". ")[0].rstrip(".")
        return (
            f"torch {torch.__version__} finds no GPU ({reason}): check that nvidia-smi lists one "
            "and that CUDA_VISIBLE_DEVICES does not hide it"
        )
    return None


def check_gpu(device: torch.device) -> None:
    """Raise UserError for an NVIDIA GPU that this build of torch does not support.

    Compiled code (sm_XY) runs on GPUs of compute capability X.Y or a higher minor version, PTX
    (compute_XY) on all higher versions: CUDA C++ Programming Guide, "Compute Capabilities".
    """
    if device.type != "cuda" or torch.version.hip is not None:
        return
    capability = torch.cuda.get_device_capability(device)
    built_for = torch.cuda.get_arch_list()
    if not built_for or any(_runs_on(capability, arch) for arch in built_for):
        return
    raise UserError(
        f"{gpu_name(device)} has compute capability {capability[0]}."
        f"{capability[1]}, but torch {torch.__version__} is built for {', '.join(built_for)}: "
        "install a build of torch that supports this GPU, or type trainer.accelerator=cpu "
        "(accelerator=cpu for other commands)"
    )


def _runs_on(capability: tuple[int, int], arch: str) -> bool:
    """Return True if a GPU of this compute capability runs code for `arch`, such as sm_90."""
    digits = re.search(r"_(\d+)", arch)
    if digits is None:
        return False
    major, minor = divmod(int(digits[1]), 10)
    if arch.startswith("compute_"):
        return (major, minor) <= capability
    return major == capability[0] and minor <= capability[1]


def use_tf32(enabled: bool) -> None:
    """Turn TF32 on or off; with TF32, float32 is multiplied with 10 bits of mantissa, not 23.

    TF32 is several times as fast as float32 on tensor cores (compute capability 8.0 and later). The
    setting holds for the whole process and affects NVIDIA GPUs only.
    """
    if torch.cuda.is_available():
        torch.backends.cuda.matmul.allow_tf32 = enabled
        torch.backends.cudnn.allow_tf32 = enabled


@contextmanager
def gpu_settings_restored() -> Iterator[None]:
    """Restore TF32 and cudnn.benchmark on exit, because the jobs of a sweep share a process."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    if not torch.cuda.is_available():
        yield
        return
    before = matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark
    try:
        yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark = before


def gpu_name(device: torch.device) -> str | None:
    """Return the name of an NVIDIA GPU, or None for another device."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else None


def gpu_settings(device: torch.device, memory_format: torch.memory_format) -> str:
    """Describe the GPU settings of a training for the first line of its log."""
    on = {True: "on", False: "off"}
    return (
        f"{gpu_name(device)}, "
        f"TF32 {on[torch.backends.cuda.matmul.allow_tf32]}, "
        f"cudnn.benchmark {on[torch.backends.cudnn.benchmark]}, "
        f"channels_last {on[memory_format is torch.channels_last]}"
    )
