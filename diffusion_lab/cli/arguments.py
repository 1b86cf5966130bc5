"""Bring command-line arguments into the order and form that Hydra accepts.

This module imports no torch, so that --help is fast.
"""

import re
from argparse import ArgumentParser
from collections.abc import Sequence
from typing import Any, NoReturn

# Hydra's own parser, so that flags of newer versions are known too
from hydra._internal.utils import get_args_parser

from diffusion_lab.config.override_syntax import quoted, unquoted
from diffusion_lab.errors import UserError


def flags_first(arguments: Sequence[str]) -> list[str]:
    """Return the arguments with Hydra's flags, as `--full-name=value`, before all overrides.

    Without this, argparse rejects `seed=1,2` in `model=flow -m seed=1,2`, because it accepts
    overrides only in one group. Raises UserError for an unknown flag or a wrong value of a flag.
    """
    parser = get_args_parser()
    flags = {name for action in parser._actions for name in action.option_strings}
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if equals and name.startswith("-") and not _is_flag(name, flags):
            override = f"{_key(name)}={value}"
            raise UserError(f"{argument}: options are typed without dashes; type {override}")
    parser.error = _refuse  # argparse's own prints the usage and exits
    typed, unknown = parser.parse_known_intermixed_args(list(arguments))
    if unknown:
        raise UserError(_unknown_flag(unknown[0], arguments, flags))
    _check_combination(typed)
    return [*_flags(parser, typed), *typed.overrides]


def _check_combination(typed: Any) -> None:
    """Raise UserError for flags that exclude each other; Hydra would end with a traceback."""
    if typed.help or typed.hydra_help:  # other flags do not matter for the help
        return
    exclusive = ("run", "multirun", "cfg", "info", "shell_completion")
    given = [name for name in exclusive if getattr(typed, name) not in (None, False)]
    if len(given) > 1:
        *others, _ = given = [f"--{name.replace('_', '-')}" for name in given]
        raise UserError(
            f"{' and '.join(given)} cannot be combined: type only one of these flags, for example "
            f"leave out {' and '.join(others)}"
        )
    if typed.resolve and not typed.cfg:
        raise UserError("--resolve needs --cfg: type --cfg job --resolve, or leave out --resolve")


def _refuse(message: str) -> NoReturn:
    raise UserError(f"{message}; type --hydra-help for an explanation of the flags")


def _is_flag(name: str, flags: set[str]) -> bool:
    """Return True if `name` is one of the flags or an abbreviation, such as `--multi`."""
    shortened = name.startswith("--") and any(flag.startswith(name) for flag in flags)
    return name in flags or (shortened and len(name) > len("--"))


def _key(flag: str) -> str:
    return flag.lstrip("-").replace("-", "_")


def _unknown_flag(flag: str, arguments: Sequence[str], flags: set[str]) -> str:
    after = list(arguments)[list(arguments).index(flag) + 1 :][:1]
    value = after[0] if after and not re.search("=|^-", after[0]) else "<value>"
    return (
        f"{flag} is no flag: type options without dashes, {_key(flag)}={value}, or one of the "
        f"flags {', '.join(sorted(name for name in flags if name.startswith('--')))}"
    )


def _flags(parser: ArgumentParser, typed: Any) -> list[str]:
    """Return the parsed flags as `--long-name` or `--long-name=value`."""
    words = []
    for action in parser._actions:
        value = getattr(typed, action.dest, None)
        if not action.option_strings or value in (None, False):
            continue
        name = action.option_strings[0]
        words.append(name if value is True else f"{name}={value}")
    return words


def bracket_lists(
    arguments: Sequence[str], names: Sequence[str], quotable: Sequence[str] = ()
) -> list[str]:
    """Turn `labels=0,1,2` into `labels=[0,1,2]`, for the options in `names`.

    With -m nothing is changed, because Hydra then treats the values as a sweep. Quotes around a
    value are ignored, except for the options in `quotable`. For these options a quoted value is one
    element, such as a path with a comma.
    """
    words = list(arguments)
    if not names or {"-m", "--multirun"} & {*words}:
        return words
    for index, word in enumerate(words):
        name, _, value = word.partition("=")
        if name in names and name not in quotable and "," in (inner := unquoted(value)):
            value = inner
        if name in names and "," in value and not value.startswith("["):
            words[index] = f"{name}=[{value}]"
    return words


def help_without_edit(arguments: Sequence[str]) -> list[str]:
    """Add `~edit` to `edit.py --help` without edit=, so that the help shows all edits' options.

    The group `edit` is mandatory. Without `~edit` Hydra would report a missing choice for the group
    instead of printing the help.
    """
    words = list(arguments)
    asked = bool({"--help", "-h"} & {*words})
    given = any(word.lstrip("+~").partition("=")[0] == "edit" for word in words)
    return [*words, "~edit"] if asked and not given else words


def push_as_override(arguments: Sequence[str]) -> list[str]:
    """Turn `--push <repository>` or `--push=<repository>` of export.py into `push=<repository>`."""
    words = list(arguments)
    if "--push" in words:  # the value is the next argument
        where = words.index("--push")
        words[where : where + 2] = [f"--push={''.join(words[where + 1 : where + 2])}"]
    return [re.sub("^--push=", "push=", word) for word in words]


def rung_overrides(arguments: Sequence[str], own: Sequence[str]) -> list[str]:
    """Replace the overrides of train.yaml in ladder.py's arguments by one option, `words=[...]`.

    `own` holds the names of ladder.py's own options, which are returned unchanged.
    """
    kept = ("-", "paths.", "hydra", *(f"{name}=" for name in own), "ladder.")
    overrides = [word for word in arguments if "=" in word or word.startswith("~")]
    for_rungs = [word for word in overrides if not word.lstrip("+~").startswith(kept)]
    words = [word for word in arguments if word not in for_rungs]
    if for_rungs:
        words.append(f"words=[{','.join(quoted(word) for word in for_rungs)}]")
    return words
