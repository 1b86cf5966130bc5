"""Says in one line what this Python lacks, before anything of it is imported."""

import sys
from importlib.util import find_spec

NEEDED = ("torch", "torchvision", "lightning", "diffusers", "hydra", "omegaconf", "antlr4")
NEEDED += ("huggingface_hub", "matplotlib", "mlxtend", "numpy", "PIL", "safetensors", "scipy")
NEEDED += ("sklearn", "rich", "filelock", "tensorboard", "tqdm")


def main() -> None:
    """Check the packages, then run the checks."""
    if missing := [name for name in NEEDED if find_spec(name) is None]:
        sys.exit(
            f"error: {sys.executable} lacks {', '.join(missing)}: docs/gpu.md says how to bring "
            "them, or name another Python, make gpu-check PYTHON=..."
        )
    from tests.gpu_check.runner import run

    run()


if __name__ == "__main__":
    main()
