"""Group runs that differ in their seed only, and name each group by its distinctive settings."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from diffusion_lab.commands.compare.evaluated_runs import EvaluatedRun
from diffusion_lab.errors import UserError

# settings without influence on the final images: the command line, folders, loggers, the way of
# computing, samples and figures during training
_IGNORED = (
    "seed",
    "command",
    "paths",
    "data.data_dir",
    "data.path",  # the hash of the images counts
    "data.cache_dir",
    "logger",
    "threads",
    "sampler",  # the evaluation records its own
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
# groups of the configuration that may name a row, the most informative first
_NAMING_GROUPS = (
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
# settings of an evaluation that influence its images, beside the sampler
_SAMPLING = (
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
    """Trainings with the same configuration except for the seed."""

    name: str
    runs: tuple[EvaluatedRun, ...]
    settings: dict[str, str]
    """The settings in which the groups differ, with this group's values."""

    @property
    def unit(self) -> str:
        """Kind of seeds over which `values` vary: "training seeds" or "sampling seeds"."""
        return "training seeds" if len(self.runs) > 1 else "sampling seeds"

    def values(self, metric: str) -> list[float]:
        """Return one value of a metric for each training: the mean over its sampling seeds.

        A group of a single training gives one value for each of its sampling seeds. A value is NaN
        if a score is missing or not finite.
        """
        by_run = [[_number(s.get(metric)) for s in run.scores] for run in self.runs]
        return by_run[0] if len(by_run) == 1 else [sum(v) / len(v) for v in by_run]

    def recorded(self, *path: str) -> float:
        """Return the mean over the runs of a number in metrics.json, given by its path of keys.

        NaN if a run lacks this number.
        """
        values = []
        for run in self.runs:
            entry: Any = run.record
            for key in path:
                entry = entry.get(key) if isinstance(entry, dict) else None
            values.append(_number(entry))
        return sum(values) / len(values)


def group_runs(runs: Sequence[EvaluatedRun]) -> list[Group]:
    """Group the runs whose settings are equal except for the seed, in order of their first run.

    Raises UserError for two runs with the same settings and the same seed, because a training must
    not count twice.
    """
    together: dict[tuple[tuple[str, str], ...], list[EvaluatedRun]] = {}
    for run in runs:
        # an option that an older run did not know yet counts as null
        given = {key: value for key, value in settings(run).items() if value != _NULL}
        together.setdefault(tuple(sorted(given.items())), []).append(run)
    for same in together.values():
        by_seed: dict[int, EvaluatedRun] = {}
        for run in same:
            other = by_seed.setdefault(run.config["seed"], run)
            if other is not run:
                raise UserError(
                    f"{other.dir} and {run.dir} are the same training, with the same configuration "
                    f"and seed={run.config['seed']}: leave out one of the two folders"
                )
    columns = _differing([dict(key) for key in together])
    names = _names(list(together.values()), columns)
    return [
        Group(names[i], tuple(same), {key: values[i] for key, values in columns.items()})
        for i, same in enumerate(together.values())
    ]


def settings(run: EvaluatedRun) -> dict[str, str]:
    """Collect the settings that influence a run's images: key -> value as text.

    These are settings of the training and of the evaluation's sampling, and the hash of the data.
    """
    flat = {
        key: value
        for key, value in _flat(run.config).items()
        if not any(key == name or key.startswith(f"{name}.") for name in _IGNORED)
    }
    sampling = {key: run.evaluation.get(key) for key in _SAMPLING}
    sampler = {k: v for k, v in run.evaluation["sampler"].items() if k != "_target_"}
    # data.source=auto may stand for different data sets
    data = (run.record.get("data") or {}).get("sha256")
    return flat | _flat(
        {
            "evaluation": sampling | {"sampler": {"word": run.sampler} | sampler},
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
    """Name each group of runs by the fewest settings that distinguish all groups.

    Configuration groups (model=flow) are preferred to single settings (optimizer.lr=0.1).
    """
    if len(groups) == 1:
        first = groups[0][0]
        return [f"model={first.words['model']}" if "model" in first.words else first.dir.name]
    choices = {}
    for key in _NAMING_GROUPS:
        options = [{run.words.get(key, _ABSENT) for run in group} for group in groups]
        if all(len(o) == 1 for o in options):
            choices[key] = [o.pop() for o in options]
    by_division: dict[tuple[int, ...], str] = {}  # the first key of each division of the groups
    every = {k: v for k, v in choices.items() if len(set(v)) > 1} | columns
    for key in every:
        by_division.setdefault(tuple(every[key].index(v) for v in every[key]), key)
    keys = list(by_division.values())
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
