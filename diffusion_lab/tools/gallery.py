"""Make a figure with one row of samples per run, all from the same seed."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from diffusion_lab import figures
from diffusion_lab.cli.errors import cli_errors
from diffusion_lab.errors import UserError
from diffusion_lab.runs.load import load_run
from diffusion_lab.system.output import check_picture


def gallery(
    run_dirs: Sequence[Path],
    out: Path,
    num_samples: int = 12,
    seed: int = 0,
    num_steps: int | None = None,
    guidance_scale: float | None = None,
    trust: Sequence[str] = (),
) -> Path:
    """Write a PNG with a row of samples per run, made by the run's own sampler; return its path.

    With `num_steps` or `guidance_scale`, the rows are labelled with the names of the run folders;
    a name that was used already is replaced by the folder's path. Otherwise the rows are labelled
    with prediction, noise schedule and sampler, or with folder names if two such labels are equal.
    None for `num_steps` or `guidance_scale` means each run's own. `trust` names packages whose
    classes the saved configurations may use. Raises UserError for a mistake, before any sampling.
    """
    for name, number in {"num-samples": num_samples, "num-steps": num_steps}.items():
        if number is not None and number < 1:
            raise UserError(f"--{name} {number}: expected at least 1")
    check_picture(out)
    descriptions: list[str] = []
    samples: list[Tensor] = []
    runs = [load_run(folder, trust=trust) for folder in run_dirs]
    for run in runs:
        sampler = run.sampler()
        sampler.num_steps = num_steps or sampler.num_steps
        images = run.sample(num_samples, sampler=sampler, seed=seed, guidance_scale=guidance_scale)
        samples.append(images.float() / 255)
        schedule = type(run.module.noise_schedule).__name__.removesuffix("Schedule")
        what = f"{run.module.prediction.name} on {schedule}"
        descriptions.append(f"{what}\n{sampler.name}, {sampler.num_steps}")
    distinct = num_steps is None and guidance_scale is None and len({*descriptions}) == len(runs)
    rows: dict[str, Tensor] = {}
    for run, what, images in zip(runs, descriptions, samples, strict=True):
        name = what if distinct else run.dir.name
        rows[str(run.dir) if name in rows else name] = images
    return figures.save_figure(figures.labelled_rows(rows), out)


def main() -> None:
    """Write a figure with samples of several runs, one row each."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--num-samples", type=int, default=12)
    parser.add_argument("--num-steps", type=int, help="default: each run's own")
    parser.add_argument("--guidance-scale", type=float, help="default: each run's own")
    parser.add_argument(
        "--trust",
        action="append",
        default=[],
        metavar="PACKAGE",
        help="allow classes of this package in the runs; may be repeated",
    )
    arguments = parser.parse_args()
    with cli_errors():
        figure = gallery(
            arguments.runs,
            arguments.out,
            arguments.num_samples,
            num_steps=arguments.num_steps,
            guidance_scale=arguments.guidance_scale,
            trust=arguments.trust,
        )
        print(figure.absolute())
