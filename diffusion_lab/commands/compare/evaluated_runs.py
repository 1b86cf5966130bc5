"""Read run folders and their newest evaluations, without executing code of the runs."""

import json
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from diffusion_lab.commands.compare.evaluation_settings import (
    MEASURES,
    others_words,
    settings_words,
    words_like,
)
from diffusion_lab.config.groups import sampler_word
from diffusion_lab.errors import UserError
from diffusion_lab.runs.newest_checkpoint import has_checkpoint
from diffusion_lab.runs.saved_config import read_config
from diffusion_lab.runs.state import has_saved
from diffusion_lab.runs.sweep import job_folders

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class EvaluatedRun:
    """Contents of a run folder and of one of its evaluations."""

    dir: Path
    config: dict[str, Any]
    """The saved configuration, interpolations unresolved."""
    words: dict[str, str]
    """The chosen option of each group of the configuration: group -> option."""
    record: dict[str, Any]
    """Content of metrics.json."""
    file: Path
    """Path of the evaluation.json."""
    evaluation: dict[str, Any]
    """Content of the evaluation.json."""

    @property
    def scores(self) -> list[dict[str, Any]]:
        """One dictionary for each sampling seed: metric -> value, and the seed."""
        return cast(list[dict[str, Any]], self.evaluation["scores"])

    @property
    def sampler(self) -> str:
        """Name of the sampler of the scored images."""
        return sampler_word(self.evaluation["sampler"])


def find_runs(named: Sequence[str]) -> list[Path]:
    """List the runs that run folders, sweep folders and glob patterns name, without duplicates.

    Runs of a pattern or a sweep that never saved a checkpoint are left out with a warning. Raises
    UserError for a name that matches no run.
    """
    folders_of: dict[Path, Path] = {}
    for name in named:
        path = Path(name).expanduser()
        folders = [path] if path.is_dir() else _matches(path)
        runs = [run for folder in folders for run in _runs_of(folder)]
        begun = [run for run in runs if run == path or has_saved(run) or _evaluations(run)]
        for run in runs:
            if run not in begun:
                log.warning("%s is left out: it never saved a checkpoint", run)
        if not begun:
            reason = "holds no run with a checkpoint" if folders else "matches no folder"
            raise UserError(
                f"runs={name} {reason}: type run folders, for example "
                "runs=logs/runs/a,logs/runs/b, a pattern, runs='logs/runs/2026*', or a sweep "
                "folder, runs=logs/sweeps/<name>"
            )
        for run in begun:
            folders_of.setdefault(run.resolve(), run)
    return list(folders_of.values())


def _is_run(folder: Path) -> bool:
    return (folder / ".hydra" / "config.yaml").is_file()


def _runs_of(folder: Path) -> list[Path]:
    """Return [folder] for a run folder, else the runs in the folder, such as a sweep's jobs."""
    if _is_run(folder):
        return [folder]
    return job_folders(folder) if folder.is_dir() else []


def _evaluations(folder: Path) -> list[Path]:
    """List the evaluation.json files of a run, newest first by the time in their folder's name."""
    return sorted(folder.glob("evaluation/*/evaluation.json"), reverse=True)


def _matches(pattern: Path) -> list[Path]:
    anchor = Path(pattern.anchor)
    return sorted(anchor.glob(str(pattern.relative_to(anchor))), key=_by_number)


def _by_number(path: str | Path) -> tuple[int, str]:
    name = str(path)
    return (len(name) if Path(name).name.isdigit() else 0, name)


def read_runs(
    folders: Iterable[Path], sampler: str | None = None, num_samples: int | None = None
) -> list[EvaluatedRun]:
    """Read runs and their newest evaluations with the given sampler and number of samples.

    `sampler` is a name such as "ddim"; None accepts any sampler or number. Raises UserError if a
    run has no such evaluation or a file cannot be read.
    """
    found = [(folder, *_fitting(folder, sampler, num_samples)) for folder in folders]
    example = next((fitting[0][1] for _, fitting, _ in found if fitting), None)
    runs = []
    for folder, fitting, others in found:
        if not fitting:
            raise UserError(_nothing_fits(folder, others, example, sampler, num_samples))
        config = _config(folder)
        record = folder / "metrics.json"
        of_run = _read(record, _json) if record.is_file() else {}
        runs.append(EvaluatedRun(folder, config, _choices_of(folder, config), of_run, *fitting[0]))
    return runs


def _fitting(
    folder: Path, sampler: str | None, num_samples: int | None
) -> tuple[list[tuple[Path, dict[str, Any]]], list[dict[str, Any]]]:
    """Return the evaluations of a run that fit, with their files, and the contents of all."""
    evaluations = [(path, _read(path, _evaluation)) for path in _evaluations(folder)]
    fitting = [
        (path, content)
        for path, content in evaluations
        if sampler in (None, sampler_word(content["sampler"]))
        and num_samples in (None, content["num_samples"])
    ]
    return fitting, [content for _, content in evaluations]


def _nothing_fits(
    folder: Path,
    evaluations: Sequence[dict[str, Any]],
    example: dict[str, Any] | None,
    sampler: str | None,
    num_samples: int | None,
) -> str:
    """Return the error for a run without a fitting evaluation; `example` is one of another run.

    Without an example, the evaluation to type has the settings of the run's newest one.
    """
    given = {"sampler": sampler, "num_samples": num_samples}
    asked = "".join(f" {key}={value}" for key, value in given.items() if value is not None)
    has = sorted({settings_words(content) for content in evaluations})
    if example is not None:
        words = f" {settings_words(example)}"
    elif evaluations:
        words = asked + others_words(evaluations[0], num_samples)
    else:
        words = asked
    return (
        f"{folder} has no evaluation{' with' if asked else ''}{asked}"
        f"{', only with ' + ' or '.join(has) if has else ''}: type "
        f"python scripts/evaluate.py run={folder}{words}"
    )


def check_comparable(runs: Sequence[EvaluatedRun]) -> None:
    """Raise UserError if the evaluations differ in extractor, reference, num_samples or NFE.

    Scores that were measured with different settings are not comparable.
    """
    first = runs[0]
    for what, of in MEASURES.items():
        for run in runs[1:]:
            mine, its = of(first.evaluation), of(run.evaluation)
            if mine != its:
                raise UserError(
                    f"{first.dir} was evaluated with {what} {mine}, but {run.dir} with {its}: "
                    "expected the same settings; select other evaluations with sampler=<name> or "
                    f"num_samples=<number>, or evaluate again, {_again(first, run)}"
                )


def _again(first: EvaluatedRun, run: EvaluatedRun) -> str:
    """Return the command that evaluates one of two runs like the other."""
    for one, other in ((run, first), (first, run)):
        if words := words_like(other.evaluation, one.evaluation):
            return f"python scripts/evaluate.py run={one.dir} {words}"
    return (
        "both with a sampler of one network evaluation per step, such as sampler=blend, and twice "
        "as many steps where there is no guidance"
    )


def _read(path: Path, read: Callable[[str], dict[str, Any]]) -> dict[str, Any]:
    try:
        return read(path.read_text())
    except (OSError, ValueError, KeyError, TypeError, YAMLError, OmegaConfBaseException) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"{path} is damaged or has unexpected content ({type(error).__name__}: {reason}): "
            "leave out this run, or move the file away"
        ) from error


def _json(text: str) -> dict[str, Any]:
    content = json.loads(text)
    if not isinstance(content, dict):
        raise ValueError("expected a JSON object")
    return content


def _evaluation(text: str) -> dict[str, Any]:
    content = _json(text)
    for measure in MEASURES.values():
        measure(content)
    if not isinstance(content["sampler"], dict) or not content["scores"]:
        raise ValueError("the evaluation has no sampler settings or no scores")
    for scores in content["scores"]:
        for key, value in scores.items():
            if not isinstance(value, int | float | None):
                raise ValueError(f"the score {key} is not a number")
    return content


def _config(folder: Path) -> dict[str, Any]:
    """Return a run's training configuration, from its checkpoint or else .hydra/config.yaml."""
    if not has_checkpoint(folder):
        return _read(folder / ".hydra" / "config.yaml", _yaml)
    saved = read_config(folder)
    for note in saved.notes:
        log.warning("%s", note)
    return cast(dict[str, Any], OmegaConf.to_container(saved.config))


def _yaml(text: str) -> dict[str, Any]:
    content = OmegaConf.to_container(OmegaConf.create(text))
    if not isinstance(content, dict) or not isinstance(content["seed"], int):
        raise ValueError("expected a training configuration with a whole number as seed")
    return cast(dict[str, Any], content)


def _choices_of(folder: Path, config: dict[str, Any]) -> dict[str, str]:
    """Return the chosen option of each configuration group, such as model -> flow.

    The options come from the configuration, or else from .hydra/hydra.yaml.
    """
    choices = (config.get("command") or {}).get("choices")
    hydra = folder / ".hydra" / "hydra.yaml"
    if not isinstance(choices, dict) and hydra.is_file():
        saved = _read(hydra, lambda text: OmegaConf.to_container(OmegaConf.create(text)))  # type: ignore[arg-type, return-value]
        choices = saved.get("hydra", {}).get("runtime", {}).get("choices")
    groups = choices if isinstance(choices, dict) else {}
    return {group: str(option) for group, option in groups.items() if "/" not in group}
