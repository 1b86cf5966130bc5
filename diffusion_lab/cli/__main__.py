"""`python -m diffusion_lab.cli` is no command: say which there are."""

from diffusion_lab.cli.errors import fail

fail(
    "diffusion_lab.cli is no command: type diffusion-lab-train, or in a checkout python "
    "scripts/train.py; the others are sample, edit, evaluate, compare, tradeoff, likelihood, "
    "diagnose, ladder, export, explain, benchmark and train_extractor"
)
