"""One picture of several runs: a row of samples each, from the same seed."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from diffusion_lab import figures
from diffusion_lab.errors import UserError
from diffusion_lab.run.load import load_run
from diffusion_lab.run.results import check_picture
from diffusion_lab.told import told


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
    that would be named alike the second is named by its path.
    Raises UserError for a mistake, before anything is drawn.
    """
    for name, number in {"num-samples": num_samples, "num-steps": num_steps}.items():
        if number is not None and number < 1:
            raise UserError(f"--{name} {number}: expected at least 1")
    check_picture(out)
    rows: dict[str, Tensor] = {}
    for run in map(load_run, run_dirs):
        sampler = run.sampler()
        sampler.num_steps = num_steps or sampler.num_steps
        images = run.sample(num_samples, sampler=sampler, seed=seed, guidance_scale=guidance_scale)
        schedule = type(run.module.noise_schedule).__name__.removesuffix("Schedule")
        name = f"{run.module.prediction.name} on {schedule}\n{sampler.name}, {sampler.num_steps}"
        if num_steps is not None or guidance_scale != 1:
            name = run.dir.name
        if name in rows:
            name = str(run.dir)
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
    with told():
        picture = gallery(
            arguments.runs,
            arguments.out,
            arguments.num_samples,
            num_steps=arguments.num_steps,
            guidance_scale=arguments.guidance_scale,
        )
        print(picture.absolute())


if __name__ == "__main__":
    main()
