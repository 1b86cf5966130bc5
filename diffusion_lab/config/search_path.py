"""Folders of YAML options: the package's own, the user's `./configs`, and `--config-dir`.

The package's folder comes first, because a `configs` folder of another project may have files of
the same names, such as `trainer/default.yaml`, which must not replace the package's files.
"""

import logging
from collections.abc import Iterable, Sequence
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, cast

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import OmegaConf
from yaml import YAMLError

from diffusion_lab.config.error_message import yaml_error
from diffusion_lab.config.override_syntax import unquoted
from diffusion_lab.errors import UserError

log = logging.getLogger(__name__)
USER_FOLDER = "configs"
"""Name of the user's folder of options, within the working folder."""


def config_folders() -> list[Path]:
    """Return the folders of YAML options, in order of precedence.

    If several folders hold a file of the same name, the first file is used. Within a command, the
    result includes all folders of Hydra's search path, such as that of `--config-dir`.
    """
    hydra = HydraConfig.instance().cfg
    if hydra is None:
        folders = [Path.cwd() / USER_FOLDER]
    else:
        runtime = hydra.hydra.runtime
        found = (_folder(source.schema, source.path) for source in runtime.config_sources)
        folders = [folder for folder in found if folder is not None]
        folders.append(Path(runtime.cwd) / USER_FOLDER)
    there = (folder.resolve() for folder in [CONFIG_DIR, *folders] if folder.is_dir())
    return list(dict.fromkeys(there))


def _folder(schema: str, path: str) -> Path | None:
    """Return the folder of an entry in Hydra's search path; None if the entry is no folder.

    `schema` is "pkg" if `path` is a package, and "file" if it is a folder.
    """
    if schema == "pkg":
        try:
            return Path(str(resources.files(path.replace("/", "."))))
        except (ImportError, TypeError, ValueError):
            return None
    return Path(path) if schema == "file" else None


class _UserFolders(SearchPathPlugin):
    """Append the user's folders to the search path, for commands of this project only."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        paths = [element.path or "" for element in search_path.get_path()]
        if str(CONFIG_DIR) not in [path.removeprefix("file://") for path in paths]:
            return
        for folder in config_folders():
            if folder != CONFIG_DIR.resolve():
                search_path.append("user", f"file://{folder}")


def register_user_folders() -> None:
    """Register a plugin that adds the user's folders of options to Hydra's search path."""
    Plugins.instance().register(_UserFolders)


def options(group: str) -> list[str]:
    """Return the names of a group's options, in alphabetical order."""
    return sorted({path.stem for folder in config_folders() for path in _files(folder, group)})


def _files(folder: Path, group: str) -> Iterable[Path]:
    return (folder / group).glob("*.yaml")


def read_option(group: str, name: str) -> dict[str, Any]:
    """Return the settings of an option, merged over the options in its defaults list.

    Interpolations stay unresolved. Raises UserError for an unknown option, and for a defaults list
    that names options of other groups.
    """
    for folder in config_folders():
        file = folder / group / f"{name}.yaml"
        if file.is_file():
            break
    else:
        folders = ", ".join(map(str, config_folders()))
        raise UserError(f"{group}={name} is unknown: there is no {group}/{name}.yaml in {folders}")
    content = dict(_load(file, file.stat().st_mtime_ns))
    merged: dict[str, Any] = {}
    for other in content.pop("defaults", []):
        if not isinstance(other, str) or other == name:
            raise UserError(
                f"{file}: expected names of other {group} options in the defaults list, got {other}"
            )
        if other != "_self_":
            merged |= read_option(group, other)
    return merged | content


@cache
def _load(file: Path, changed: int) -> dict[str, Any]:
    try:
        return cast(dict[str, Any], OmegaConf.to_container(OmegaConf.load(file)) or {})
    except YAMLError as error:
        raise UserError(yaml_error(error)) from error


def hidden_files(overrides: Sequence[str]) -> list[str]:
    """Return a warning for each YAML file that is ignored because another file has its name.

    Only the files of options that `overrides` select are checked.
    """
    lines = []
    for word in overrides:
        key, _, name = word.lstrip("+").partition("=")
        group = key.partition("@")[0]
        files = [folder / group / f"{unquoted(name)}.yaml" for folder in config_folders()]
        there = [file for file in files if file.is_file()]
        lines += [
            f"{other} is not used, because {word} selects {there[0]}: give your file another name"
            for other in there[1:]
            if other.read_bytes() != there[0].read_bytes()
        ]
    return lines


def warn_of_hidden_files(overrides: Sequence[str]) -> None:
    """Log a warning for each YAML file that is ignored because another file has its name."""
    for line in hidden_files(overrides):
        log.warning("%s", line)


_PACKAGE = Path(__file__).parents[1]


# a wheel has the configs folder inside the package, a checkout has the folder beside it
CONFIG_DIR = next(p for p in (_PACKAGE / "configs", _PACKAGE.parent / "configs") if p.is_dir())
