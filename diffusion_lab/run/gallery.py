"""One picture of several runs: a row of samples each, from the same seed."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from diffusion_lab import figures
from diffusion_lab.errors import UserError
from diffusion_lab.run.load import load_run


def gallery(
    run_dirs: Sequence[Path],
    out: Path,
    num_samples: int = 12,
    seed: int = 0,
    num_steps: int | None = None,
    guidance_scale: float = 1.0,
) -> Path:
    """Write a PNG with a row per run, drawn by the run's own sampler.

    Rows are named by what was trained, with other steps or guidance by the runs' folders; of two
    that would be named alike the second has its path added.
    """
    rows: dict[str, Tensor] = {}
    for run_dir in run_dirs:
        run = load_run(run_dir)
        sampler = run.sampler()
        sampler.num_steps = num_steps or sampler.num_steps
        images = run.sample(num_samples, sampler=sampler, seed=seed, guidance_scale=guidance_scale)
        schedule = type(run.module.noise_schedule).__name__.removesuffix("Schedule")
        name = f"{run.module.prediction.name} on {schedule}\n{sampler.name}, {sampler.num_steps}"
        if num_steps is not None or guidance_scale != 1:
            name = run_dir.name
        if name in rows:
            name = f"{name}\n{run_dir}"
        rows[name] = images.float() / 255
    return figures.save_figure(figures.labelled_rows(rows), out)


def main() -> None:
    """`python -m diffusion_lab.run.gallery out.png run [run ...]`."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--num-samples", type=int, default=12)
    parser.add_argument("--num-steps", type=int, help="default: each run's own")
    parser.add_argument("--guidance-scale", type=float, default=1.0)
    arguments = parser.parse_args()
    try:
        picture = gallery(
            arguments.runs,
            arguments.out,
            arguments.num_samples,
            num_steps=arguments.num_steps,
            guidance_scale=arguments.guidance_scale,
        )
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    print(picture.absolute())


if __name__ == "__main__":
    main()
