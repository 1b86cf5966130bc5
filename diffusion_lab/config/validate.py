"""Validate a composed configuration against the signatures of the classes it names."""

import inspect
import math
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any, Literal, Union

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from diffusion_lab.config.schema.base import LARGEST_SEED
from diffusion_lab.config.trusted import find_object
from diffusion_lab.config.unknown_keys import unknown_option
from diffusion_lab.errors import UserError, near

OWN_KEYS: dict[str, dict[str, Any]] = {
    "trainer": {"compile": bool, "compile_mode": str, "tf32": bool, "channels_last": bool | str}
}
"""Settings that this project adds to the arguments of a node's class: node -> setting -> type."""
_IN_YAML = {bool: "true or false", int: "a whole number", float: "a number", str: "a word"}
_PARTS = {
    "network",
    "noise_schedule",
    "prediction",
    "weighting",
    "time_sampling",
    "augment",
    "sampler",
}
"""Groups whose classes get all their arguments from the configuration."""
_HYDRA_KEYS = {"_target_", "_partial_", "_convert_", "_recursive_", "_args_"}


def _targets(node: Any, path: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    if isinstance(node, Mapping):
        if "_target_" in node:
            yield path, node
        for key, child in node.items():
            yield from _targets(child, f"{path}.{key}" if path else str(key))


def _accepts(hint: Any, value: Any) -> bool:
    """Return True if a value from YAML may be passed to an argument with a type hint.

    Only hints of numbers and booleans exclude a value; all other hints accept any value.
    """
    union = typing.get_origin(hint) in (Union, types.UnionType)
    options = typing.get_args(hint) if union else (hint,)
    if isinstance(value, str):
        named = value in _literals(options)
        return named or str in options or not {int, float, bool} & set(options)
    if not set(options) <= {int, float, bool, type(None)}:
        return True
    if isinstance(value, bool):
        return bool in options
    return isinstance(value, options) or (isinstance(value, int) and float in options)


def _literals(options: Iterable[Any]) -> list[Any]:
    """Return the values of all `Literal[...]` in a union's type hints."""
    literals = [option for option in options if typing.get_origin(option) is Literal]
    return [value for literal in literals for value in typing.get_args(literal)]


def _expected(hint: Any) -> str:
    """Describe a type hint for an error message, such as "a whole number or null"."""
    union = typing.get_origin(hint) in (Union, types.UnionType)
    options = typing.get_args(hint) if union else (hint,)
    plain = [o for o in options if typing.get_origin(o) is not Literal]
    named = [_IN_YAML.get(o, getattr(o, "__name__", str(o))) for o in plain if o is not type(None)]
    named += [str(value) for value in _literals(options)]
    return " or ".join([*named, *["null"] * (type(None) in options)])


def _is_setting(value: float, path: str) -> bool:
    """Return True if a float is a valid setting of the node `path`.

    NaN is never valid. Infinity is invalid in the optimizer only, because elsewhere it may be the
    bound of a range.
    """
    return math.isfinite(value) or (math.isinf(value) and path != "optimizer")


def _hints(target: Any) -> dict[str, Any]:
    try:
        return typing.get_type_hints(target.__init__ if inspect.isclass(target) else target)
    except NameError:  # a name that the module imports for type checkers only
        return {}


def validate(config: Mapping[str, Any], schema: type) -> None:
    """Raise UserError for an unknown key and for a number outside its limits.

    `config` is a DictConfig or a plain mapping; `schema` is a dataclass whose fields may have
    limits (`schema.base.limited`). Missing values and null are not checked.
    """
    check_keys(config, schema)
    check_numbers(config, schema)


def check_numbers(config: Mapping[str, Any], schema: type, prefix: str = "") -> None:
    """Raise UserError for a number outside the limits of its schema field, at any depth.

    `prefix` stands before the names of the settings in error messages, such as "teacher.".
    """
    for setting in fields(schema):
        value = _value(config, setting.name)
        if value is None:
            continue
        if isinstance(setting.type, type) and is_dataclass(setting.type):
            check_numbers(value, setting.type, f"{prefix}{setting.name}.")
        least, most = setting.metadata.get("least"), setting.metadata.get("most")
        if least is not None and not least <= value <= (value if most is None else most):
            expected = (
                f"at least {least}" if most is None else f"a whole number from {least} to {most}"
            )
            raise UserError(f"{prefix}{setting.name}={value}: expected {expected}")


def check_seed(seed: int) -> None:
    """Raise UserError for a seed that NumPy or torch would reject."""
    if not 0 <= seed <= LARGEST_SEED:
        raise UserError(f"seed={seed}: expected a whole number from 0 to {LARGEST_SEED}")


def check_one_initial_network(cfg: DictConfig) -> None:
    """Raise UserError if both a pipeline and a teacher are to provide the initial network."""
    teacher = OmegaConf.select(cfg, "teacher.run")
    if OmegaConf.select(cfg, "init_from") and teacher:
        raise UserError(
            f"init_from={cfg.init_from} and teacher.run={teacher} each provide the network: "
            "leave out one of them"
        )


def _value(config: Mapping[str, Any], name: str) -> Any:
    """Return the value of a key; None if the key is absent or its value cannot be resolved."""
    try:
        return config.get(name)
    except OmegaConfBaseException:
        return None


def check_keys(config: Mapping[str, Any], schema: type) -> None:
    """Raise UserError for a key that the schema (a dataclass) lacks, such as one added by +key=."""
    known = {field.name for field in fields(schema)}
    for key in config:
        if key not in known:
            raise UserError(unknown_option(key, config, known))


def _check_complete(
    path: str,
    node: Mapping[str, Any],
    parameters: Mapping[str, inspect.Parameter],
    config: Mapping[str, Any],
) -> None:
    """Raise UserError if a node of the user's lacks an argument that its class needs."""
    path = path.removeprefix("teacher.")
    root, _, name = path.partition(".")
    is_part = not name if root in _PARTS else root == "callbacks" or path == "data.images"
    complete = not node.get("_partial_", False)  # the caller gives a partial's other arguments
    if not is_part or not complete or node["_target_"].startswith("diffusion_lab."):
        return
    for name, parameter in parameters.items():
        needed = parameter.default is parameter.empty
        named = parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
        if needed and named and name not in node:
            choice = (config.get("command") or {}).get("choices", {}).get(root, "<name>")
            raise UserError(
                f"{path}: {node['_target_']} needs an argument {name}: add the line {name}: "
                f"<value> to configs/{root}/{choice}.yaml, below its _target_"
            )


def check_config(config: Mapping[str, Any], find: Callable[[str], Any] = find_object) -> None:
    """Check every node that has a `_target_` against the signature of its class.

    Raises UserError for a key that the class does not take, and for a value of the wrong type.
    `config` is a resolved, plain dictionary; `find` returns the class of a dotted name.
    """
    for path, node in _targets(config):
        try:
            target = find(node["_target_"])
        except (ImportError, UserError) as error:
            raise UserError(
                f"{path}._target_={node['_target_']} cannot be used: {error}"
            ) from error
        parameters = inspect.signature(target).parameters
        _check_complete(path, node, parameters, config)
        own = OWN_KEYS.get(path, {})
        hints = _hints(target) | own
        takes_more = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
        for key in node.keys() - _HYDRA_KEYS:
            if key not in parameters and key not in own and not takes_more:
                known = sorted([*parameters, *own])
                meant = " or ".join(f"{path}.{other}" for other in near(str(key), known))
                raise UserError(
                    f"{path}.{key} is unknown: "
                    + (f"did you mean {meant}?" if meant else f"{target.__name__} takes {known}")
                )
            if isinstance(node[key], float) and not _is_setting(node[key], path):
                raise UserError(f"{path}.{key}={node[key]}: expected a finite number")
            if key in hints and not _accepts(hints[key], node[key]):
                raise UserError(f"{path}.{key}={node[key]}: expected {_expected(hints[key])}")
