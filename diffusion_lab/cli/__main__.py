"""Error message for `python -m diffusion_lab.cli`, which is not a command."""

from diffusion_lab.cli.errors import fail

fail(
    "diffusion_lab.cli is not a command: type diffusion-lab-train, or in a checkout python "
    "scripts/train.py; the other commands are sample, edit, evaluate, compare, tradeoff, "
    "likelihood, diagnose, ladder, export, explain, benchmark and train_extractor"
)
