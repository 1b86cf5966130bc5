"""Runs with what they were and what their newest evaluation found; nothing of them is executed."""

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError  # type: ignore[import-untyped]

from diffusion_lab.config.groups import sampler_word
from diffusion_lab.errors import UserError
from diffusion_lab.runs.newest_checkpoint import has_checkpoint
from diffusion_lab.runs.saved_config import read_config
from diffusion_lab.runs.state import has_saved
from diffusion_lab.runs.sweep import job_folders

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class EvaluatedRun:
    """A run folder as read, with one evaluation of it."""

    dir: Path
    config: dict[str, Any]
    """As it was saved, interpolations unresolved."""
    words: dict[str, str]
    """The word taken of each group of the configuration."""
    record: dict[str, Any]
    """metrics.json."""
    file: Path
    """The evaluation.json."""
    evaluation: dict[str, Any]

    @property
    def scores(self) -> list[dict[str, Any]]:
        """A dictionary of metrics for each sampling seed."""
        return cast(list[dict[str, Any]], self.evaluation["scores"])

    @property
    def sampler(self) -> str:
        """The word of the sampler that drew the images."""
        return sampler_word(self.evaluation["sampler"])


def find_runs(named: Sequence[str]) -> list[Path]:
    """Run folders of names, patterns and sweep folders, in that order, each once.

    Those of a pattern or a folder that never saved a checkpoint are left out with a warning. Raises
    UserError for a name that leads to no run.
    """
    found: dict[Path, Path] = {}
    for name in named:
        path = Path(name).expanduser()
        folders = [path] if path.is_dir() else _matches(path)
        runs = [run for folder in folders for run in _runs_of(folder)]
        begun = [run for run in runs if run == path or has_saved(run) or _evaluations(run)]
        for run in runs:
            if run not in begun:
                log.warning("%s is left out: it never saved a checkpoint", run)
        if not begun:
            reason = "holds no run" if folders else "is no folder"
            raise UserError(
                f"runs={name} {reason}: give run folders, runs=logs/runs/a,logs/runs/b, a pattern, "
                "runs='logs/runs/2026*', or a sweep folder, runs=logs/sweeps/<name>"
            )
        for run in begun:
            found.setdefault(run.resolve(), run)
    return list(found.values())


def _is_run(folder: Path) -> bool:
    return (folder / ".hydra" / "config.yaml").is_file()


def _runs_of(folder: Path) -> list[Path]:
    """Itself, or the runs below it, such as the jobs of a sweep."""
    if _is_run(folder):
        return [folder]
    return job_folders(folder) if folder.is_dir() else []


def _evaluations(folder: Path) -> list[Path]:
    """The newest first: they are named by their time."""
    return sorted(folder.glob("evaluation/*/evaluation.json"), reverse=True)


def _matches(pattern: Path) -> list[Path]:
    anchor = Path(pattern.anchor)
    return sorted(anchor.glob(str(pattern.relative_to(anchor))), key=_by_number)


def _by_number(path: str | Path) -> tuple[int, str]:
    name = str(path)
    return (len(name) if Path(name).name.isdigit() else 0, name)


def read_run(
    folder: Path, sampler: str | None = None, num_samples: int | None = None
) -> EvaluatedRun:
    """Read a run and its newest evaluation, of those by a sampler (a word) or of a number.

    Raises UserError if there is none, or a file cannot be read.
    """
    evaluations = [(path, _read(path, _evaluation)) for path in _evaluations(folder)]
    fitting = [
        (path, content)
        for path, content in evaluations
        if sampler in (None, sampler_word(content["sampler"]))
        and num_samples in (None, content["num_samples"])
    ]
    if not fitting:
        given = {"sampler": sampler, "num_samples": num_samples}
        asked = "".join(f" {key}={value}" for key, value in given.items() if value is not None)
        has = sorted({_settings(content) for _, content in evaluations})
        raise UserError(
            f"{folder} has no evaluation{' with' if asked else ''}{asked}"
            f"{', but with ' + ' or '.join(has) if has else ''}: make one, "
            f"python scripts/evaluate.py run={folder}{asked}"
        )
    config = _config(folder)
    record = folder / "metrics.json"
    return EvaluatedRun(
        folder,
        config,
        _words_of(folder, config),
        _read(record, _json) if record.is_file() else {},
        *fitting[0],
    )


def check_comparable(runs: Sequence[EvaluatedRun]) -> None:
    """Raise UserError unless all were measured alike: scores of other measures do not compare."""
    first = runs[0]
    for what, of in MEASURES.items():
        for run in runs[1:]:
            mine, its = of(first.evaluation), of(run.evaluation)
            if mine != its:
                raise UserError(
                    f"{first.dir} was evaluated with {what} {mine}, {run.dir} with {its}: choose "
                    "sampler= or num_samples= that both have, or evaluate one as the other, "
                    f"python scripts/evaluate.py run={run.dir} {_settings(first.evaluation)}"
                )


MEASURES: dict[str, Callable[[dict[str, Any]], str]] = {
    "extractor": lambda e: f"{e['extractor']['name']} ({str(e['extractor']['sha256'])[:8]})",
    "reference": lambda e: f"{e['reference']['data']} ({e['reference']['n']} images)",
    "num_samples": lambda e: str(e["num_samples"]),
    "network calls per image": lambda e: str(e["num_calls"]),
}
"""What evaluations must have in common."""


def _settings(evaluation: dict[str, Any]) -> str:
    sampler = evaluation["sampler"]
    return (
        f"sampler={sampler_word(sampler)} sampler.num_steps={sampler.get('num_steps')} "
        f"num_samples={evaluation['num_samples']}"
    )


def _read(path: Path, read: Callable[[str], dict[str, Any]]) -> dict[str, Any]:
    try:
        return read(path.read_text())
    except (OSError, ValueError, KeyError, TypeError, YAMLError, OmegaConfBaseException) as error:
        raise UserError(
            f"{path} is damaged or of another kind ({type(error).__name__}): leave that run out or "
            "move the file away"
        ) from error


def _json(text: str) -> dict[str, Any]:
    content = json.loads(text)
    if not isinstance(content, dict):
        raise ValueError("not a dictionary")
    return content


def _evaluation(text: str) -> dict[str, Any]:
    content = _json(text)
    for measure in MEASURES.values():
        measure(content)
    if not isinstance(content["sampler"], dict) or not content["scores"]:
        raise ValueError("no sampler or no scores")
    for scores in content["scores"]:
        for key, value in scores.items():
            if not isinstance(value, int | float | None):
                raise ValueError(f"{key} is no number")
    return content


def _config(folder: Path) -> dict[str, Any]:
    """The configuration of the run's training, from its checkpoint if there is one."""
    if not has_checkpoint(folder):
        return _read(folder / ".hydra" / "config.yaml", _yaml)
    saved = read_config(folder)
    for note in saved.notes:
        log.warning("%s", note)
    return cast(dict[str, Any], OmegaConf.to_container(saved.config))


def _yaml(text: str) -> dict[str, Any]:
    content = OmegaConf.to_container(OmegaConf.create(text))
    if not isinstance(content, dict) or not isinstance(content["seed"], int):
        raise ValueError("not a training's configuration")
    return cast(dict[str, Any], content)


def _words_of(folder: Path, config: dict[str, Any]) -> dict[str, str]:
    """From Hydra's own record, or from the configuration where it was composed in Python."""
    choices = (config.get("command") or {}).get("choices")
    hydra = folder / ".hydra" / "hydra.yaml"
    if not isinstance(choices, dict) and hydra.is_file():
        saved = _read(hydra, lambda text: OmegaConf.to_container(OmegaConf.create(text)))  # type: ignore[arg-type, return-value]
        choices = saved.get("hydra", {}).get("runtime", {}).get("choices")
    groups = choices if isinstance(choices, dict) else {}
    return {group: str(word) for group, word in groups.items() if "/" not in group}
