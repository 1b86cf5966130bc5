"""Benchmark of training speed with callbacks, logging and progress bar."""

import statistics
from dataclasses import dataclass

from torch import Tensor, nn

from diffusion_lab.benchmark.interleaved import OFF_THE_CLOCK, Blocks, interleaved_training
from diffusion_lab.benchmark.machine import flops
from diffusion_lab.benchmark.settings import Settings, run_words
from diffusion_lab.benchmark.table import Row, Target
from diffusion_lab.benchmark.timing import timed
from diffusion_lab.benchmark.torchvision_files import write_torchvision_files
from diffusion_lab.benchmark.tutorial_baseline import (
    AtTimeZero,
    PlainTraining,
    PlainUNet,
    plain_loader,
    plain_loss,
    plain_unet2d,
)
from diffusion_lab.system.precision import chosen_precision


@dataclass(frozen=True)
class Case:
    """A network of Hugging Face's tutorial to benchmark, with overrides and the target ratio."""

    part: str
    what: str
    words: tuple[str, ...]
    target: Target


BASIC_UNET = Case(
    "basic_unet", "training, BasicUNet", ("model=basic_unet",), Target(1.15, at_least=True)
)
UNET2D = Case("unet2d", "training, UNet2DModel", ("model=unet2d",), Target(1.5, at_least=True))


def _network(case: Case) -> nn.Module:
    return PlainUNet() if case is BASIC_UNET else AtTimeZero(plain_unet2d())


def training(case: Case, settings: Settings, matmul: float) -> list[Row]:
    """Measure training steps per second; compare them with the loop of Hugging Face's tutorial.

    `matmul` is the machine's FLOP/s in matrix products, used to compute the utilization.
    """
    # both sides train on the training split without the validation images
    data = settings.datamodule(*case.words)
    root = write_torchvision_files(data, settings.scratch / case.part)
    loader = plain_loader(root, settings.batch_size)
    plain = PlainTraining(_network(case), loader, settings.device)
    operations = _flops(plain, next(iter(loader))[0])
    plain.steps(1)
    once = timed(lambda: plain.steps(1), settings.device)
    blocks = Blocks(plain.steps, settings.block(once, once), settings.repeats)
    words = (
        *case.words,
        f"trainer.precision={settings.precision}",
        *settings.training_words,
    )
    cfg = settings.compose(*words, *OFF_THE_CLOCK)
    seconds = interleaved_training(cfg, blocks)
    rates = seconds.map(lambda s: 1 / s)
    utilization = [
        operations / s / matmul for s in map(statistics.median, (seconds.baseline, seconds.ours))
    ]
    return [
        Row(
            case.part,
            case.what,
            "the tutorial's loop: torchvision's loader, eager, Adam, float32",
            "steps/s",
            rates,
            case.target,
            {
                "words": run_words(words),
                "precision": chosen_precision(cfg.trainer.precision, settings.device),
                "batch_size": settings.batch_size,
                "steps_in_a_block": blocks.steps,
                "flops_of_a_step": operations,
                "baseline_share_of_matmul_rate": utilization[0],
                "our_share_of_matmul_rate": utilization[1],
            },
        )
    ]


def _flops(plain: PlainTraining, x: Tensor) -> int:
    """Count the FLOPs of a training step of Hugging Face's tutorial on images x (B, 1, 28, 28).

    A step of this project has the same FLOPs, because both compute the same matrix products and
    convolutions.
    """
    x = x.to(plain.device)
    amount = x.flatten(1).mean(1)
    return flops(lambda: plain_loss(plain.net, x, x.flip(0), amount).backward())
