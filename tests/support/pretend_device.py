"""A device that is not there: what would fail or wait on a GPU is seen on a CPU.

`on_device()` registers a device with torch whose tensors hold CPU tensors. Operations are computed
by the CPU, so results are those of the CPU to the last bit; but tensors on two devices do not go
together, as on a GPU, and every copy between the devices and every look at a value is noted.
`python -m tests.support.pretend_device` runs trainings and samplers there and prints what was
noted, as JSON: a device cannot be registered twice, so the tests ask a process of its own.
"""

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

CPU = torch.device("cpu")
aten = torch.ops.aten
COPIES = {aten._to_copy, aten.copy_}
# an index may lie on the CPU
BOTH_DEVICES = {*COPIES, aten.index, aten.index_put_, aten._index_put_impl_}
# what a GPU has to be waited for
LOOKS = {aten._local_scalar_dense, aten.is_nonzero, aten.nonzero, aten.masked_select, aten.equal}


class There(torch.Tensor):
    """A tensor on the device."""

    held: torch.Tensor

    @staticmethod
    def __new__(cls, held: torch.Tensor) -> "There":
        made = torch.Tensor._make_wrapper_subclass(
            cls,
            held.size(),
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device="pretend:0",
        )
        made.held = held
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return compute(func, args, kwargs or {})

    def tolist(self) -> Any:
        return self.cpu().tolist()

    def __format__(self, spec: str) -> str:
        return self.item().__format__(spec)

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.held.__reduce_ex__(protocol)


def compute(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Do an operation on the CPU and put its result where it belongs."""
    flat, spec = tree_flatten((args, kwargs))
    given = {id(value.held): value for value in flat if isinstance(value, There)}
    device = kwargs.get("device")
    there = bool(given) if device is None else torch.device(device).type == "pretend"
    if given and func.overloadpacket not in BOTH_DEVICES:
        for value in flat:
            if isinstance(value, torch.Tensor) and not isinstance(value, There) and value.ndim:
                raise RuntimeError(f"{func}: tensors on two devices, {tuple(value.shape)} on cpu")

    def lowered(value: Any) -> Any:
        if isinstance(value, There):
            return value.held
        return CPU if isinstance(value, torch.device) and value.type == "pretend" else value

    plain_args, plain_kwargs = tree_unflatten([lowered(value) for value in flat], spec)
    out = func(*plain_args, **plain_kwargs)
    if func.overloadpacket is aten.copy_:
        return args[0]

    def lifted(value: Any) -> Any:
        if not isinstance(value, torch.Tensor):
            return value
        return given[id(value)] if id(value) in given else There(value) if there else value

    return tree_map(lifted, out)


class Device(TorchDispatchMode):
    """While it is on, the device is there; notes copies and looks."""

    def __init__(self) -> None:
        super().__init__()
        self.copies: list[tuple[str, str, int, bool]] = []
        self.looks: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = compute(func, args, kwargs)
        if func.overloadpacket in COPIES:
            source = args[1] if func.overloadpacket is aten.copy_ else args[0]
            if source.device.type != out.device.type:
                waits = not (kwargs.get("non_blocking") or args[2:] == (True,))
                self.copies.append((source.device.type, out.device.type, source.numel(), waits))
        elif func.overloadpacket in LOOKS and any(isinstance(value, There) for value in args):
            self.looks.append(str(func))
        return out


@contextmanager
def on_device() -> Iterator[Device]:
    """Register the device and let it be there."""
    from torch.utils.backend_registration import (
        _DummyBackendModule,
        _setup_privateuseone_for_python_backend,
    )

    class Module(_DummyBackendModule):
        def get_rng_state(self, device: Any = None) -> torch.Tensor:
            return torch.get_rng_state()

        def set_rng_state(self, state: torch.Tensor, device: Any = None) -> None:
            torch.set_rng_state(state)

        def get_amp_supported_dtype(self) -> list[torch.dtype]:
            return [torch.bfloat16, torch.float16]

    _setup_privateuseone_for_python_backend("pretend", backend_module=Module())
    torch.__future__.set_swap_module_params_on_conversion(True)
    for name in ("tensor", "as_tensor"):  # they fill the device's memory past what is noted
        setattr(torch, name, _moved_there(getattr(torch, name)))
    torch.inference_mode = lambda mode=True: torch.no_grad()  # its tensors cannot be wrapped
    # the engine's own thread for the device knows nothing of the mode
    with Device() as device, torch.autograd.set_multithreading_enabled(False):
        yield device


def _moved_there(make: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    def made(data: Any, dtype: Any = None, device: Any = None, **options: Any) -> torch.Tensor:
        if device is None or torch.device(device).type != "pretend":
            return make(data, dtype=dtype, device=device, **options)
        return make(data, dtype=dtype, **options).to(device)

    return made


def main() -> None:
    """Do what the lines say: `train <overrides>`, `sample <overrides>`, `command <words>`."""
    with on_device() as device:
        from tests.support.pretend_runs import commanded, sampled, trained

        found: dict[str, Any] = {}
        for line in sys.argv[1:]:
            kind, *words = line.split()
            work = {"command": commanded, "sample": sampled, "train": trained}[kind]
            with TemporaryDirectory() as folder:
                try:
                    found[line] = work(words, Path(folder), device)
                except (Exception, SystemExit) as error:
                    if len(sys.argv) == 2:
                        raise
                    found[line] = f"{type(error).__name__}: {str(error).splitlines()[:1]}"
    print(json.dumps(found))


if __name__ == "__main__":
    main()
