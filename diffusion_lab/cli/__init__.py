"""Entry points of the commands scripts/<name>.py and diffusion-lab-<name>.

Importing this package imports no torch, so that --help is fast.
"""

import sys
from dataclasses import fields

from omegaconf import DictConfig

from diffusion_lab.cli.arguments import help_without_edit, push_as_override, rung_overrides
from diffusion_lab.cli.output_folder import removed_if_rejected
from diffusion_lab.cli.run_command import (
    command,
    prepare_arguments,
    reporting,
    run_command,
    task_of,
)
from diffusion_lab.cli.training import train
from diffusion_lab.cli.working_dir import back_to_typed
from diffusion_lab.config import schema

__all__ = [
    "benchmark",
    "compare",
    "diagnose",
    "edit",
    "evaluate",
    "explain",
    "export",
    "ladder",
    "likelihood",
    "sample",
    "tradeoff",
    "train",
    "train_extractor",
]

benchmark = command("benchmark", "parts", entry="benchmark.command")
compare = command("compare", "runs", "metrics", entry="commands.compare.command")
diagnose = command("diagnose", entry="commands.diagnose.command")
evaluate = command("evaluate", "labels", "seeds", "images", "guidance_interval")
likelihood = command("likelihood", entry="commands.likelihood.command")
sample = command("sample", "labels", "guidance_scale", "guidance_interval")
tradeoff = command(
    "tradeoff",
    "samplers",
    "num_steps",
    "spacings",
    "labels",
    "seeds",
    entry="commands.tradeoff.command",
)
train_extractor = command("train_extractor")


def edit() -> None:
    """Run `diffusion-lab-edit` (scripts/edit.py): edit images with a trained run."""
    prepare_arguments("labels", "guidance_scale", "images", first=help_without_edit)
    run_command(task_of("commands.edit.command:edit"), "edit")


def export() -> None:
    """Run `diffusion-lab-export` (scripts/export.py): export a run to diffusers."""
    prepare_arguments(first=push_as_override)
    run_command(task_of("commands.export:export"), "export")


def ladder() -> None:
    """Run `diffusion-lab-ladder` (scripts/ladder.py): train runs that differ by one change each.

    Overrides of train.yaml on the command line apply to all these runs.
    """
    own = [f.name for f in fields(schema.LadderConfig) if f.name != "words"]
    prepare_arguments("seeds")
    sys.argv[1:] = rung_overrides(sys.argv[1:], own)
    run_command(_ladder, "ladder")


def _ladder(cfg: DictConfig) -> None:
    from diffusion_lab.commands.ladder.command import ladder

    back_to_typed()
    result = reporting(ladder, cfg)
    print(*result.lines, result.out, sep="\n")
    if result.errors:
        sys.exit(1)


def explain() -> None:
    """Run `diffusion-lab-explain` (scripts/explain.py): describe a training without running it."""
    folder = "${paths.log_dir}/explained/${now:%Y-%m-%d_%H-%M-%S}_${run_id:}"
    prepare_arguments(
        first=lambda words: [f"hydra.run.dir={folder}", "hydra.job.name=explain", *words]
    )
    run_command(_explain, "train")


def _explain(cfg: DictConfig) -> None:
    with removed_if_rejected():
        task_of("commands.explain:explain")(cfg)
