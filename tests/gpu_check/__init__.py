"""Checks this project on a GPU within eight minutes: is it right there, and how fast is it?

`make gpu-check`, or `python -m tests.gpu_check`. Needs an NVIDIA GPU, torch and what this project
needs; no network and no test framework. With the full MNIST (DIFFUSION_LAB_DATA) losses are held
against published ones. `--tiny` runs everything in small sizes on a CPU, so that it is known to
work before a GPU is at hand. After every check gpu_check.json and gpu_check.md are written anew.
The exit code is 1 where a check failed; a goal of speed that is missed is no failure.
"""
