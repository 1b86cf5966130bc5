"""Trains on a device that has no values: what a GPU would be waited for is an error here.

`python -m tests.pretend_device <overrides>` registers a device with torch that computes shapes
alone (FakeTensorMode). A number read from it (`.item()`, `bool()`, `tolist()`, a mask as an index)
raises an error, as do operands on two devices; copies between it and the CPU are counted. Prints
for each step the copies as [from, to, number of elements, non_blocking].
"""

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import lightning as L
import torch
from lightning.pytorch.loops import evaluation_loop, fit_loop
from torch import nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    FakeTensor,
    FakeTensorMode,
)
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.backend_registration import (
    _DummyBackendModule,
    _setup_privateuseone_for_python_backend,
)

from diffusion_lab import compose_config
from diffusion_lab.attached import attached
from diffusion_lab.callbacks import finite_loss, loss_by_noise
from diffusion_lab.run.build import build
from diffusion_lab.run.lean import leave_out_idle_hooks
from diffusion_lab.run.lock import locked
from diffusion_lab.run.parts import build_callbacks, build_model, build_trainer, quieten_lightning

STEPS = 4
TINY = (
    "data=fake",
    "data.num_images=48",
    "data.val_size=0",
    "data.batch_size=8",
    "monitor=train/loss_epoch",
    "trainer.accelerator=cpu",  # the strategy is told of the other device below
    f"trainer.max_steps={STEPS + 1}",
    "trainer.log_every_n_steps=100",
    "+callbacks.progress.seconds=1e9",
    "~callbacks.best",
    "~callbacks.last",
    "callbacks.samples=null",
    "callbacks.figures=null",
)


class Module(_DummyBackendModule):
    """What torch asks of a device: random streams and autocast."""

    def get_rng_state(self, device: Any = None) -> torch.Tensor:
        return torch.zeros(16, dtype=torch.uint8)

    def set_rng_state(self, state: torch.Tensor, device: Any = None) -> None:
        pass

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16, torch.float16]


class Copies(TorchDispatchMode):
    """Notes every copy between the devices."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, str, int, bool]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        if func in (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default):
            source = args[1] if func is torch.ops.aten.copy_.default else args[0]
            if source.device.type != out.device.type:
                blocking = not kwargs.get("non_blocking", False)
                kinds = (source.device.type, out.device.type)
                self.seen.append((*kinds, source.numel(), not blocking))
        return out


class EveryStep(L.Callback):
    """Counts the copies of each step, the fetching of its batch included."""

    def __init__(self, copies: Copies) -> None:
        self.copies, self.steps = copies, [0]

    def on_train_batch_end(self, *args: Any) -> None:
        self.steps.append(len(self.copies.seen))

    def counted(self) -> list[list[tuple[str, str, int, bool]]]:
        return [self.copies.seen[a:b] for a, b in zip(self.steps, self.steps[1:], strict=False)]


def move(modules: Iterable[nn.Module], device: torch.device) -> None:
    """Put parameters and buffers of these shapes onto the device, in place of those there are."""
    for module in modules:
        for name, p in module._parameters.items():
            if p is not None:
                module._parameters[name] = nn.Parameter(_like(p, device), p.requires_grad)
        for name, b in module._buffers.items():
            if b is not None:
                module._buffers[name] = _like(b, device)


def _like(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=device)


def steps(words: list[str], folder: Path, device: torch.device) -> list[Any]:
    """Train four steps as scripts/train.py would; -> the copies of each."""
    cfg = compose_config([*TINY, *words], folder)
    callbacks = build_callbacks(cfg, any_logger=False)
    module, datamodule = build_model(cfg), build(cfg.data)
    trainer = build_trainer(cfg, callbacks, [])
    datamodule.setup("fit")
    with (
        locked(folder),
        FakeTensorMode(allow_non_fake_inputs=True) as fake,
        Copies() as copies,
    ):
        counter = EveryStep(copies)
        trainer.callbacks.append(counter)
        leave_out_idle_hooks(attached(trainer, L.Callback))
        trainer.strategy._root_device = device
        table = getattr(module.noise_schedule, "alphas_cumprod", None)
        if table is not None:
            module.noise_schedule.alphas_cumprod = fake.from_tensor(table)
        for by_noise in attached(trainer, loss_by_noise.LossByNoise):
            by_noise.sums = {k: fake.from_tensor(sums) for k, sums in by_noise.sums.items()}
        move(module.modules(), device)
        module._device = device
        # it is there, and what is fake cannot be moved again
        module.to = module.cpu = lambda *args, **kwargs: module
        for images, labels in [datamodule._splits["train"]]:
            datamodule._splits["train"] = (fake.from_tensor(images), fake.from_tensor(labels))
        trainer.strategy.accelerator.setup_device = lambda device: None
        try:
            trainer.fit(module, datamodule)
        except DataDependentOutputException:
            if len(counter.steps) <= STEPS:  # the end of training may look at what it gave
                raise
        assert all(isinstance(p, FakeTensor) for p in module.parameters())
    return counter.counted()[:STEPS]


def main() -> None:
    _setup_privateuseone_for_python_backend("pretend", backend_module=Module())
    finite_loss._runs_behind = lambda device: True  # as on CUDA
    # a copy that has arrived on the CPU has no values here either
    finite_loss._Verdict.read = lambda self: [0.0] * len(self.numbers)
    loss_by_noise.log_snr_range = lambda *args: (-10.0, 10.0)  # before the first step it may look
    for loop in (fit_loop, evaluation_loop):  # they would put a number there
        loop.has_len_all_ranks = lambda *args, **kwargs: True
    quieten_lightning()
    found = {}
    for line in sys.argv[1:]:
        with TemporaryDirectory() as folder:
            try:
                found[line] = steps(line.split(), Path(folder), torch.device("pretend:0"))
            except Exception as error:
                if len(sys.argv) == 2:
                    raise
                found[line] = f"{type(error).__name__}: {str(error).splitlines()[0]}"
    print(json.dumps(found))


if __name__ == "__main__":
    main()
