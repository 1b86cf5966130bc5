"""Train and print the peak memory: `python -m diffusion_lab.benchmark.parts.peak_memory`.

The arguments `train <overrides>` run scripts/train.py. The arguments
`loop <root> <batch size> <batches> <device>` run the training loop of Hugging Face's tutorial on
the MNIST files in <root>, which torchvision reads.
"""

import json
import sys
from pathlib import Path


def resident(name: str) -> int:
    """Return this process's resident memory in bytes.

    "VmRSS" is the current memory, "RssAnon" the same without mapped files, and "VmHWM" the peak.
    Without /proc, as on macOS, the peak is returned for every name.
    """
    status = Path("/proc/self/status")
    if status.exists():
        # not getrusage, whose peak includes the parent process before exec
        [line] = [text for text in status.read_text().splitlines() if text.startswith(f"{name}:")]
        return int(line.split()[1]) * 1024
    import resource

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def _train(words: list[str]) -> int:
    import diffusion_lab.training.train  # noqa: F401 - the imports of the command
    from diffusion_lab.cli.training import train

    before = resident("VmRSS")
    sys.argv = ["train.py", *words]
    train()
    return before


def _loop(root: str, batch_size: str, batches: str, device: str) -> int:
    import matplotlib.pyplot  # noqa: F401 - the tutorial imports matplotlib and the scheduler
    import torch
    from diffusers import DDPMScheduler  # noqa: F401

    from diffusion_lab.benchmark.tutorial_baseline import PlainTraining, PlainUNet, plain_loader

    before = resident("VmRSS")
    loader = plain_loader(Path(root), int(batch_size))
    PlainTraining(PlainUNet(), loader, torch.device(device)).steps(int(batches))
    return before


def main() -> None:
    """Train as the arguments say; print {"imports": bytes, "peak": bytes} as JSON.

    `imports` is the resident memory before the training, `peak` the largest of the process.
    """
    kind, *rest = sys.argv[1:]
    imports = _train(rest) if kind == "train" else _loop(*rest)
    print(json.dumps({"imports": imports, "peak": resident("VmHWM")}))


if __name__ == "__main__":
    main()
