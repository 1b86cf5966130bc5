"""Runs that differ in nothing but their seed are one group, named by what sets it apart."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from diffusion_lab.commands.compare.evaluated_runs import EvaluatedRun
from diffusion_lab.errors import UserError

# what does not shape the images: which words were typed, where things lie, who is told,
# how it was computed, what was drawn on the way
_IGNORED = (
    "seed",
    "command",
    "paths",
    "data.data_dir",
    "logger",
    "threads",
    "sampler",  # the evaluation has its own
    "guidance_scale",
    "guidance_interval",
    "data.on_device",
    "trainer.compile",
    "trainer.compile_mode",
    "trainer.tf32",
    "trainer.channels_last",
    "trainer.benchmark",
    "trainer.log_every_n_steps",
    *(
        f"callbacks.{name}"
        for name in ("samples", "figures", "progress", "losses", "throughput", "learning_rate")
    ),
)
# of several ways to tell runs apart the first is the one that says most
_WORDS = (
    "model",
    "network",
    "noise_schedule",
    "prediction",
    "weighting",
    "time_sampling",
    "pairing",
    "optimizer",
    "lr_scheduler",
    "sampler",
    "data",
    "trainer",
    "callbacks",
)
# of an evaluation, what shapes the images that it scored; the sampler comes by its word
_DRAWN = (
    "checkpoint",
    "weights",
    "labels",
    "guidance_scale",
    "guidance_interval",
    "autoguidance",
    "precision",
)
_ABSENT = "absent"
_NULL = "null"


@dataclass(frozen=True)
class Group:
    """Trainings of one configuration."""

    name: str
    runs: tuple[EvaluatedRun, ...]
    settings: dict[str, str]
    """Those in which the groups differ."""

    @property
    def unit(self) -> str:
        """What the spread of `values` is over."""
        return "training seeds" if len(self.runs) > 1 else "sampling seeds"

    def values(self, metric: str) -> list[float]:
        """One value a training, the mean of its sampling seeds; of one training, one a seed.

        NaN where the evaluation has no finite number.
        """
        by_run = [[_number(s.get(metric)) for s in run.scores] for run in self.runs]
        return by_run[0] if len(by_run) == 1 else [sum(v) / len(v) for v in by_run]

    def recorded(self, *path: str) -> float:
        """The mean over the runs of an entry of metrics.json; NaN where one has none."""
        values = []
        for run in self.runs:
            entry: Any = run.record
            for key in path:
                entry = entry.get(key) if isinstance(entry, dict) else None
            values.append(_number(entry))
        return sum(values) / len(values)


def group_runs(runs: Sequence[EvaluatedRun]) -> list[Group]:
    """Put runs that are equal but for their seed and paths together, and name what tells apart.

    The groups are in order of their first run. Raises UserError for two runs of one configuration
    and one seed, which are one training.
    """
    together: dict[tuple[tuple[str, str], ...], list[EvaluatedRun]] = {}
    for run in runs:
        # a setting that was not there yet is one that is not set
        there = {key: value for key, value in settings(run).items() if value != _NULL}
        together.setdefault(tuple(sorted(there.items())), []).append(run)
    for same in together.values():
        by_seed: dict[int, EvaluatedRun] = {}
        for run in same:
            other = by_seed.setdefault(run.config["seed"], run)
            if other is not run:
                raise UserError(
                    f"{other.dir} and {run.dir} are one training, the same configuration and "
                    f"seed={run.config['seed']}: leave one out"
                )
    columns = _differing([dict(key) for key in together])
    names = _names(list(together.values()), columns)
    return [
        Group(names[i], tuple(same), {key: values[i] for key, values in columns.items()})
        for i, same in enumerate(together.values())
    ]


def settings(run: EvaluatedRun) -> dict[str, str]:
    """What shaped a run's images, flat: its configuration, its data, how they were drawn."""
    flat = {
        key: value
        for key, value in _flat(run.config).items()
        if not any(key == name or key.startswith(f"{name}.") for name in _IGNORED)
    }
    drawn = {key: run.evaluation.get(key) for key in _DRAWN}
    sampler = {k: v for k, v in run.evaluation["sampler"].items() if k != "_target_"}
    # data.source=auto may stand for several sets
    data = (run.record.get("data") or {}).get("sha256")
    return flat | _flat(
        {
            "evaluation": drawn | {"sampler": {"word": run.sampler} | sampler},
            "data": {"sha256": data},
        }
    )


def _flat(node: Any, path: str = "") -> dict[str, str]:
    if isinstance(node, Mapping) and node:
        flat: dict[str, str] = {}
        for key, child in node.items():
            flat |= _flat(child, f"{path}.{key}" if path else str(key))
        return flat
    return {
        path: _NULL if node is None else str(node).lower() if node in (True, False) else str(node)
    }


def _differing(rows: Sequence[Mapping[str, str]]) -> dict[str, list[str]]:
    keys = dict.fromkeys(key for row in rows for key in row)
    columns = {key: [row.get(key, _NULL) for row in rows] for key in keys}
    return {key: values for key, values in columns.items() if len(set(values)) > 1}


def _names(groups: Sequence[Sequence[EvaluatedRun]], columns: dict[str, list[str]]) -> list[str]:
    """The smallest set of keys that tells all groups apart; words before single settings."""
    if len(groups) == 1:
        first = groups[0][0]
        return [f"model={first.words['model']}" if "model" in first.words else first.dir.name]
    words = {}
    for key in _WORDS:
        found = [{run.words.get(key, _ABSENT) for run in group} for group in groups]
        if all(len(w) == 1 for w in found):
            words[key] = [w.pop() for w in found]
    cli_errors: dict[tuple[int, ...], str] = {}  # keys that divide the groups alike are one choice
    every = {k: v for k, v in words.items() if len(set(v)) > 1} | columns
    for key in every:
        cli_errors.setdefault(tuple(every[key].index(v) for v in every[key]), key)
    keys = list(cli_errors.values())
    sizes = [*range(1, min(3, len(keys)) + 1), len(keys)]
    chosen = next(
        chosen
        for size in sizes
        for chosen in combinations(keys, size)
        if len(set(zip(*(every[key] for key in chosen), strict=True))) == len(groups)
    )
    return [", ".join(f"{key}={every[key][i]}" for key in chosen) for i in range(len(groups))]


def _number(value: Any) -> float:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if number else float("nan")
