"""Random states in the checkpoint, so that a resumed run samples the same numbers."""

import random
from typing import Any

import lightning as L
import numpy as np
import torch


def random_state() -> dict[str, Any]:
    """Return the random states of Python, NumPy, torch and all devices, as dicts and tensors."""
    version, numbers, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    return {
        "python": {"version": version, "numbers": list(numbers), "gauss": gauss},
        "numpy": {
            "name": str(name),
            "keys": torch.from_numpy(np.asarray(keys).astype(np.int64)),
            "position": int(position),
            "has_gauss": int(has_gauss),
            "cached": float(cached),
        },
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "mps": [torch.mps.get_rng_state()] if torch.backends.mps.is_available() else [],
    }


def set_random_state(state: dict[str, Any]) -> None:
    """Restore the states that `random_state` returned."""
    python, numpy = state["python"], state["numpy"]
    random.setstate((python["version"], tuple(python["numbers"]), python["gauss"]))
    keys = numpy["keys"].numpy().astype(np.uint32)
    np.random.set_state(
        (numpy["name"], keys, numpy["position"], numpy["has_gauss"], numpy["cached"])
    )
    torch.set_rng_state(state["torch"])
    for device, stream in enumerate(state["cuda"][: torch.cuda.device_count()]):
        torch.cuda.set_rng_state(stream, device)
    if torch.backends.mps.is_available():
        for stream in state.get("mps", []):
            torch.mps.set_rng_state(stream)


class RandomState(L.Callback):
    """Save the random states in the checkpoint, and restore them when the run is resumed.

    The entry `random` of the checkpoint holds the states of each process. The entry `threads` holds
    the number of CPU threads, because another number changes the last bits of the results.
    """

    def __init__(self) -> None:
        self._loaded: list[dict[str, Any]] = []

    def on_save_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add the random states of all processes to the checkpoint."""
        states: list[Any] = [random_state()]
        if trainer.world_size > 1:
            states = [None] * trainer.world_size
            torch.distributed.all_gather_object(states, random_state())
        checkpoint["random"] = states
        # the number of threads decides the order of summation
        checkpoint["threads"] = torch.get_num_threads()

    def on_load_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Keep the states until training starts, because the set-up may use random numbers."""
        self._loaded = checkpoint.get("random", [])

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Restore the random states right before the first step."""
        if trainer.global_rank < len(self._loaded):
            set_random_state(self._loaded[trainer.global_rank])
        self._loaded = []
