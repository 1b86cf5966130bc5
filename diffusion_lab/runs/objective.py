"""Group runs by training objective, because losses are comparable only within one objective.

Imports no torch, because the summary of a sweep uses it.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from diffusion_lab.config.renamed import with_new_names

# settings that define a validation loss, apart from the network and its training
_PARTS = (
    "noise_schedule",
    "prediction",
    "weighting",
    "time_sampling",
    "pairing",
    "model._target_",
    "model.clipped_to",
    "data.name",
    "data.source",
    "data.path",
    "data.split",
    "data.resize",
    "data.background",
    "data.image_size",
    "data.channels",
    "data.value_range",
    "data.latents",
    "data.val_size",
    "data.num_images",
    "data.clusters",
    "teacher.run",
)


def differing_parts(configs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the options of the training objective in which saved configurations differ."""
    return [part for part in _PARTS if len({str(_part(c, part)) for c in configs}) > 1]


def objective_groups(configs: Sequence[Mapping[str, Any]]) -> list[int]:
    """Number the training objectives from 1; return each configuration's number.

    Losses are comparable between configurations of the same number.
    """
    objectives = [tuple(str(_part(config, part)) for part in _PARTS) for config in configs]
    order = list(dict.fromkeys(objectives))
    return [order.index(objective) + 1 for objective in objectives]


def losses_do_not_compare(parts: Sequence[str]) -> str:
    """Return the note that the losses of runs with different objectives are not comparable.

    `parts` are the options in which the objectives differ.
    """
    names = [part.removesuffix("._target_") for part in parts]
    listed = names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
    return f"losses of different objectives are not comparable: these runs differ in {listed}"


def mark_objectives(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Add the column "objective", a number, to the table of a sweep with several objectives.

    Losses are comparable between rows of the same number. The column "run_dir" must hold the run
    folders.
    """
    configs = [_saved(Path(row["run_dir"])) for row in rows]
    numbers = objective_groups(configs)
    if len(set(numbers)) > 1:
        for row, number in zip(rows, numbers, strict=True):
            row["objective"] = number
    return rows


def note_on_losses(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the lines of a note if the losses in a sweep's table are not comparable, else none."""
    parts = differing_parts([_saved(Path(row["run_dir"])) for row in rows])
    if not parts:
        return []
    return [f"{losses_do_not_compare(parts)}; compare rows with the same number under objective"]


def _saved(folder: Path) -> dict[str, Any]:
    try:
        saved = OmegaConf.to_container(OmegaConf.load(folder / ".hydra" / "config.yaml"))
    except Exception:  # any error of the YAML parser; the table reports failed runs anyway
        return {}
    if not isinstance(saved, dict):
        return {}
    return {str(key): value for key, value in with_new_names(saved).items()}


def _part(config: Mapping[str, Any], path: str) -> Any:
    node: Any = config
    for key in path.split("."):
        node = node.get(key) if isinstance(node, Mapping) else None
    return _plain(node)


def _plain(node: Any) -> Any:
    """Return a node without null values, so that a null option equals one that is missing."""
    if isinstance(node, Mapping):
        return {k: _plain(v) for k, v in sorted(node.items()) if v is not None}
    return node
