"""Read the configuration that a run was trained with, from its checkpoint and .hydra/config.yaml.

The checkpoint holds resolved values. `.hydra/config.yaml` also holds interpolations such as
`${paths.output_dir}`, but may have been edited: where the two files differ, the checkpoint's values
are used. Imports torch only to read a checkpoint.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from diffusion_lab.config.limits import MAY_CHANGE
from diffusion_lab.config.renamed import with_new_names
from diffusion_lab.errors import UserError, reason_of
from diffusion_lab.runs.newest_checkpoint import has_checkpoint, read_newest
from diffusion_lab.runs.state import check_new, read_record
from diffusion_lab.system.atomic import replacing

_NEEDED = {"command", "model", "paths"}
_AUTO = ("trainer.precision", "data.source")
"""Options whose value `auto` is replaced during the run."""
_OF_A_PIPELINE = ("network",)
"""Nodes that `init_from=` sets."""
_OF_A_TEACHER = ("network", "noise_schedule", "prediction", "data", "model", "teacher.run")
"""Nodes that `teacher.run=` sets."""
_UNKNOWN = object()
"""Placeholder for the value of an interpolation that cannot be resolved here."""


class UnreadableConfig(UserError):
    """Error for a .hydra/config.yaml that is unreadable or not the configuration of a training."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"{reason}: start a new run")
        self.reason = reason


@dataclass
class SavedConfig:
    """The configuration that a run was trained with, and warnings for the user."""

    config: DictConfig
    """Unresolved; it may name classes of untrusted packages."""
    notes: list[str] = field(default_factory=list)
    """Warnings about differences between .hydra/config.yaml and the checkpoint."""


def read_config(folder: Path) -> SavedConfig:
    """Read a run's configuration from its checkpoint; if there is none, from .hydra/config.yaml.

    Raises UserError if neither file has a configuration, or if the configuration has a node `hydra`
    or `defaults`, which could run code.
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
    except (UserError, RecursionError) as error:  # a YAML alias may be within its own node
        reason = error.reason if isinstance(error, UnreadableConfig) else str(error) or path
        note = f"{reason}: using the checkpoint's configuration"
        return SavedConfig(OmegaConf.create(_literal(trained)), [note])
    if not keys:
        return SavedConfig(config)
    shown = ", ".join(keys[:5]) + (f" and {len(keys) - 5} more" if len(keys) > 5 else "")
    return SavedConfig(
        config,
        [f"{path} differs from the run's checkpoint ({shown}): using the checkpoint's values"],
    )


def _of_checkpoint(folder: Path) -> dict[str, Any] | None:
    """Return the checkpoint's resolved configuration; None if there is no readable checkpoint."""
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
    except Exception as error:  # any error of the YAML parser
        raise UnreadableConfig(f"{path} cannot be read ({reason_of(error)})") from error
    if not isinstance(config, DictConfig) or not config.keys() >= _NEEDED:
        raise UnreadableConfig(
            f"{path} is not the configuration of a training (expected the keys "
            f"{', '.join(sorted(_NEEDED))})"
        )
    _check_nodes(config, path)
    return OmegaConf.create(with_new_names(OmegaConf.to_container(config, resolve=False)))


def _check_nodes(config: Mapping[Any, Any], source: Path) -> None:
    for name in ("hydra", "defaults"):
        if name in config:
            raise UserError(
                f"{source} has a node {name}, which no run saves: do not trust this run"
            )


def merge(
    written: DictConfig, trained: Mapping[str, Any], later: Sequence[DictConfig] = ()
) -> tuple[DictConfig, list[str]]:
    """Merge the configurations of config.yaml and checkpoint; also return the keys that differ.

    The merged values are the checkpoint's, except for the folders in `paths`, which are those of
    config.yaml. Interpolations of config.yaml are kept if they give the checkpoint's value. The
    options in MAY_CHANGE may change when a run is resumed; such an option is not returned as a
    differing key if a configuration in `later` has the checkpoint's value.

    Args:
        written: the configuration in .hydra/config.yaml, unresolved.
        trained: the checkpoint's configuration, resolved.
        later: the configurations in .hydra/resumed_*, of starts that resumed the run.

    """
    plain: Any = OmegaConf.to_container(written, resolve=False)
    folders = plain["paths"]
    # the run folder may have been moved since
    plain["paths"] = {**folders, "output_dir": trained["paths"]["output_dir"]}
    silent: tuple[str, ...] = ()
    true = {**trained, "paths": plain["paths"], "command": plain["command"]}
    if later and plain.get("init_from") and true.get("init_from") is None:
        # init_from is null in a resumed run, whose checkpoint holds the pipeline's network
        true["init_from"] = plain["init_from"]
    if true.get("init_from"):
        silent += _OF_A_PIPELINE
    if (true.get("teacher") or {}).get("run"):
        silent += _OF_A_TEACHER
    merged = _Merge(silent, [_values(config) for config in later])
    for merged.roots_only in (True, False):  # first the values that interpolations refer to
        plain = merged.node(plain, _values(OmegaConf.create(plain)), true)
    plain["paths"], plain["command"] = folders, _literal(trained["command"])
    return OmegaConf.create(plain), merged.keys


def check_start(cfg: DictConfig, run_dir: Path) -> None:
    """Raise UserError if a new training would overwrite or change the run in a folder."""
    check_new(run_dir)
    check_same_run(cfg, run_dir)


def check_same_run(cfg: DictConfig, run_dir: Path) -> None:
    """Raise UserError if the folder holds an unfinished run with another configuration.

    A new start may continue two kinds of unfinished runs: Lightning resumes a run that SLURM has
    requeued, and a run that stopped before its first checkpoint begins again.
    """
    requeued = sorted(run_dir.glob("hpc_ckpt_*.ckpt"), key=lambda path: path.stat().st_mtime)
    file = run_dir / ".hydra" / "config.yaml"
    if requeued:
        from diffusion_lab.runs.checkpoint import read_checkpoint

        began, source = read_checkpoint(requeued[-1])["config"], requeued[-1]
    elif (run_dir / "metrics.json").is_file() and file.is_file() and not _failed(run_dir):
        began, source = _values(_of_file(file)), file
    else:
        return
    _, keys = merge(cfg, began)
    if others := [key for key in keys if key not in MAY_CHANGE]:
        raise UserError(
            f"{source} belongs to a run with another configuration ({', '.join(others[:5])}): "
            "repeat the overrides of that run, or choose another folder with hydra.run.dir=<folder>"
        )


def _failed(run_dir: Path) -> bool:
    """Return True if a run failed or has no metrics.json, so that a new run may replace it."""
    return bool(read_record(run_dir).get("status", "failed") == "failed")


class _Merge:
    """Recursive merge of a written configuration, its resolved values and a checkpoint's values.

    `silent` are nodes that may differ, `later` the configurations of resumed starts. `keys` holds
    the names of all other nodes that differ.
    """

    def __init__(self, silent: tuple[str, ...], later: list[Any]) -> None:
        self.silent, self.later = silent, later
        self.roots_only = True
        self.keys: list[str] = []

    def node(self, raw: Any, value: Any, true: Any, key: str = "") -> Any:
        """Merge a node of two configurations; `key` is the node's full name.

        `raw` is the node in config.yaml, `value` is `raw` with its interpolations resolved, and
        `true` is the node in the checkpoint.
        """
        if isinstance(raw, dict) and isinstance(value, dict) and isinstance(true, Mapping):
            return self._children(raw, value, true, key)
        if value == true or (value != value and true != true):  # nan
            return raw
        follows = isinstance(raw, str) and "${" in raw
        by_resolver = follows and ":" in raw  # from the process, such as an environment variable
        if follows and (key in MAY_CHANGE or (self.roots_only and not by_resolver)):
            return raw
        raised = key in MAY_CHANGE and any(_select(config, key) == true for config in self.later)
        if not (raised or by_resolver or (raw == "auto" and key in _AUTO)):
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
    """Resolve a configuration; values that cannot be resolved here become _UNKNOWN."""
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
    """Escape `${` in resolved values, so that they are not interpolated again."""
    if isinstance(value, Mapping):
        return {name: _literal(child) for name, child in value.items()}
    if isinstance(value, list | tuple):
        return [_literal(child) for child in value]
    return value.replace("${", "\\${") if isinstance(value, str) else value


CONFIG_FOLDER = ".hydra"


def write_config(folder: Path, cfg: DictConfig, hydra: DictConfig | None = None) -> None:
    """Write .hydra/config.yaml; if `hydra` is given, also hydra.yaml and overrides.yaml.

    Interpolations are written unresolved, because a run folder may be moved.
    """
    texts = {"config": OmegaConf.to_yaml(cfg)}
    if hydra is not None:
        texts["hydra"] = OmegaConf.to_yaml(hydra)
        texts["overrides"] = OmegaConf.to_yaml(hydra.hydra.overrides.task)
    (folder / CONFIG_FOLDER).mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        with replacing(folder / CONFIG_FOLDER / f"{name}.yaml") as part:
            part.write_text(text, encoding="utf-8")
