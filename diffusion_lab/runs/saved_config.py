"""The configuration that a run was trained with: that of its checkpoint, as it was written.

`.hydra/config.yaml` is for people. It holds what the checkpoint cannot, which settings follow from
which (`${paths.output_dir}`), and is taken where the two agree. Where they differ the checkpoint
counts. Imports torch only where there is a checkpoint to read.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from diffusion_lab.config.renamed import with_new_names
from diffusion_lab.errors import UserError
from diffusion_lab.runs.newest_checkpoint import has_checkpoint, read_newest
from diffusion_lab.runs.state import check_new
from diffusion_lab.system.atomic import replacing

MAY_CHANGE = (
    "trainer.max_epochs",
    "trainer.max_steps",
    "trainer.max_time",
    "trainer.accelerator",
    "trainer.compile",
    "trainer.compile_mode",
    "trainer.enable_model_summary",
    "trainer.log_every_n_steps",
    "trainer.profiler",
    "callbacks.finite_loss.skip",
    "callbacks.last.every_seconds",
    "callbacks.progress.seconds",
    "paths.data_dir",
    "data.data_dir",
    "data.on_device",
)
"""Settings that do not make it another experiment."""
_NEEDED = {"command", "model", "paths"}
_SETTLED = ("trainer.precision", "data.source")
"""Settings whose `auto` a run replaces by what it finds."""
_OF_A_PIPELINE = ("network",)
_OF_A_TEACHER = ("network", "noise_schedule", "prediction", "data", "model", "teacher.run")
"""Nodes that `init_from=` and `teacher.run=` bring."""
_UNKNOWN = object()
"""The value of an interpolation that cannot be resolved here."""


@dataclass
class SavedConfig:
    """The configuration of a run folder."""

    config: DictConfig
    """Unresolved, and not to be trusted."""
    notes: list[str] = field(default_factory=list)
    """A line where the file beside the checkpoint says something else."""


def read_config(folder: Path) -> SavedConfig:
    """The configuration that a run was trained with, or is to be where it has saved nothing yet.

    Raises UserError where neither the file nor a checkpoint has one, or where it configures Hydra.
    """
    path = folder / ".hydra" / "config.yaml"
    trained = _of_checkpoint(folder)
    if trained is None:
        return SavedConfig(_of_file(path))
    _check_nodes(trained, folder / "checkpoints")
    try:
        written = _of_file(path)
        later = [_of_file(file) for file in folder.glob(".hydra/resumed_*/config.yaml")]
        config, keys = merge(written, trained, later)
    except (UserError, RecursionError) as error:  # a node may follow itself
        note = f"{str(error).partition(': start')[0] or path}: the checkpoint's own is taken"
        return SavedConfig(OmegaConf.create(_literal(trained)), [note])
    if not keys:
        return SavedConfig(config)
    shown = ", ".join(keys[:5]) + (f" and {len(keys) - 5} more" if len(keys) > 5 else "")
    return SavedConfig(
        config, [f"{path} is not what the run was trained with ({shown}): the checkpoint counts"]
    )


def _of_checkpoint(folder: Path) -> dict[str, Any] | None:
    """Resolved; None where no checkpoint can be read, which is an error only where one is used."""
    if not has_checkpoint(folder):
        return None
    try:
        config: dict[str, Any] = read_newest(folder).content["config"]
    except UserError:
        return None
    return config if config.keys() >= _NEEDED else None


def _of_file(path: Path) -> DictConfig:
    try:
        config = OmegaConf.load(path)
    except Exception as error:  # whatever a YAML parser makes of a broken file
        raise UserError(
            f"{path} cannot be read ({type(error).__name__}): start a new run"
        ) from error
    if not isinstance(config, DictConfig) or not config.keys() >= _NEEDED:
        raise UserError(f"{path} is no configuration of a training: start a new run")
    _check_nodes(config, path)
    return OmegaConf.create(with_new_names(OmegaConf.to_container(config, resolve=False)))


def _check_nodes(config: Mapping[Any, Any], source: Path) -> None:
    for name in ("hydra", "defaults"):
        if name in config:
            raise UserError(f"{source} has a node {name}, which no run saves: do not trust it")


def merge(
    written: DictConfig, trained: Mapping[str, Any], later: Sequence[DictConfig] = ()
) -> tuple[DictConfig, list[str]]:
    """The file's configuration with the checkpoint's values, and the keys that differed.

    What follows from another setting in the file goes on following it where the values agree, and
    so does the place of the data. A limit that was raised, as one of `later`, the configurations of
    resumed starts, has it, is no difference.
    """
    plain: Any = OmegaConf.to_container(written, resolve=False)
    places = plain["paths"]
    plain["paths"] = {**places, "output_dir": trained["paths"]["output_dir"]}  # as it was then
    silent: tuple[str, ...] = ()
    true = {**trained, "paths": plain["paths"], "command": plain["command"]}
    if later and plain.get("init_from") and true.get("init_from") is None:
        # a resumed run has the pipeline's network and weights, and names the pipeline no more
        true["init_from"] = plain["init_from"]
    if true.get("init_from"):
        silent += _OF_A_PIPELINE
    if (true.get("teacher") or {}).get("run"):
        silent += _OF_A_TEACHER
    merged = _Merge(silent, [_values(config) for config in later])
    for merged.roots_only in (True, False):  # first what others may follow
        plain = merged.node(plain, _values(OmegaConf.create(plain)), true)
    plain["paths"], plain["command"] = places, _literal(trained["command"])
    return OmegaConf.create(plain), merged.keys


def check_start(cfg: DictConfig, run_dir: Path) -> None:
    """Raise UserError where a training would overwrite the run in a folder, or change it."""
    check_new(run_dir)
    check_same_run(cfg, run_dir)


def check_same_run(cfg: DictConfig, run_dir: Path) -> None:
    """Raise UserError if a start there would make another run of one that was begun.

    That is what SLURM requeued, where Lightning goes on, and what was stopped before its first
    checkpoint, which begins again.
    """
    turns = sorted(run_dir.glob("hpc_ckpt_*.ckpt"), key=lambda path: path.stat().st_mtime)
    file = run_dir / ".hydra" / "config.yaml"
    if turns:
        from diffusion_lab.runs.checkpoint import read_checkpoint

        began, source = read_checkpoint(turns[-1])["config"], turns[-1]
    elif (run_dir / "metrics.json").is_file() and file.is_file() and not _failed(run_dir):
        began, source = _values(_of_file(file)), file
    else:
        return
    _, keys = merge(cfg, began)
    if others := [key for key in keys if key not in MAY_CHANGE]:
        raise UserError(
            f"{source} is of a run with another configuration ({', '.join(others[:5])}): type the "
            "same again, or give a folder of its own"
        )


def _failed(run_dir: Path) -> bool:
    """Return True if the run that was begun there ended by an error, and may be tried again."""
    try:
        return bool(json.loads((run_dir / "metrics.json").read_text())["status"] == "failed")
    except (OSError, ValueError, KeyError, TypeError):
        return True


class _Merge:
    """A walk through a configuration as it was written, its values, and those of a checkpoint."""

    def __init__(self, silent: tuple[str, ...], later: list[Any]) -> None:
        self.silent, self.later = silent, later
        self.roots_only = True
        self.keys: list[str] = []

    def node(self, raw: Any, value: Any, true: Any, key: str = "") -> Any:
        """The node as it is to be."""
        if isinstance(raw, dict) and isinstance(value, dict) and isinstance(true, Mapping):
            return self._children(raw, value, true, key)
        if value == true or (value != value and true != true):  # nan
            return raw
        follows = isinstance(raw, str) and "${" in raw
        by_resolver = follows and ":" in raw  # of the process, such as an environment variable
        if follows and (key in MAY_CHANGE or (self.roots_only and not by_resolver)):
            return raw
        raised = key in MAY_CHANGE and any(_select(config, key) == true for config in self.later)
        if not (raised or by_resolver or (raw == "auto" and key in _SETTLED)):
            self._differs(key)
        return _literal(true)

    def _children(
        self, raw: dict[Any, Any], value: dict[Any, Any], true: Mapping[Any, Any], key: str
    ) -> dict[Any, Any]:
        children = {}
        for name in [*raw, *(name for name in true if name not in raw)]:
            path = f"{key}.{name}" if key else str(name)
            if name not in true or name not in raw:
                self._differs(path)
            if name in true:
                known = name in raw
                children[name] = (
                    self.node(raw[name], value[name], true[name], path)
                    if known
                    else _literal(true[name])
                )
        return children

    def _differs(self, key: str) -> None:
        if not any(key == node or key.startswith(f"{node}.") for node in self.silent):
            self.keys.append(key)


def _values(node: Any) -> Any:
    """A configuration resolved as far as it can be here."""
    if isinstance(node, DictConfig):
        return {name: _value(node, name) for name in node}
    if isinstance(node, ListConfig):
        return [_value(node, index) for index in range(len(node))]
    return node


def _value(node: Any, name: Any) -> Any:
    try:
        return _values(node[name])
    except OmegaConfBaseException:
        return _UNKNOWN


def _select(values: Any, key: str) -> Any:
    for name in key.split("."):
        values = values.get(name) if isinstance(values, dict) else None
    return values


def _literal(value: Any) -> Any:
    """A value that is resolved, as the configuration writes it."""
    if isinstance(value, Mapping):
        return {name: _literal(child) for name, child in value.items()}
    if isinstance(value, list | tuple):
        return [_literal(child) for child in value]
    return value.replace("${", "\\${") if isinstance(value, str) else value


CONFIG_FOLDER = ".hydra"


def write_config(folder: Path, cfg: DictConfig, hydra: DictConfig | None = None) -> None:
    """Write config.yaml, and what Hydra keeps beside it, unresolved: a run may be moved."""
    texts = {"config": OmegaConf.to_yaml(cfg)}
    if hydra is not None:
        texts["hydra"] = OmegaConf.to_yaml(hydra)
        texts["overrides"] = OmegaConf.to_yaml(hydra.hydra.overrides.task)
    (folder / CONFIG_FOLDER).mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        with replacing(folder / CONFIG_FOLDER / f"{name}.yaml") as part:
            part.write_text(text, encoding="utf-8")
