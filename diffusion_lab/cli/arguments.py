"""Command-line arguments in the order and the form that Hydra takes. Imports no torch."""

import re
from argparse import ArgumentParser
from collections.abc import Sequence
from typing import Any, NoReturn

# the flags are Hydra's own: a list of ours would miss one that it adds
from hydra._internal.utils import get_args_parser

from diffusion_lab.config.override_syntax import quoted, unquoted
from diffusion_lab.errors import UserError


def flags_first(arguments: Sequence[str]) -> list[str]:
    """Put Hydra's flags before the overrides, each spelled out and with its value in one word.

    argparse takes the overrides of one stretch only: in `model=flow -m seed=1,2` it does not know
    the last. Raises UserError for a flag that Hydra does not have and for a wrong value.
    """
    parser = get_args_parser()
    flags = {name for action in parser._actions for name in action.option_strings}
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if equals and name.startswith("-") and not _is_flag(name, flags):
            override = f"{_key(name)}={value}"
            raise UserError(f"{argument}: options are typed without dashes, {override}")
    parser.error = _refuse  # it would print the usage and exit
    typed, unknown = parser.parse_known_intermixed_args(list(arguments))
    if unknown:
        raise UserError(_unknown_flag(unknown[0], arguments, flags))
    _check_combination(typed)
    return [*_flags(parser, typed), *typed.overrides]


def _check_combination(typed: Any) -> None:
    """Raise UserError for flags that exclude each other; Hydra would end with a traceback."""
    if typed.help or typed.hydra_help:  # which need no more than themselves
        return
    exclusive = ("run", "multirun", "cfg", "info", "shell_completion")
    given = [name for name in exclusive if getattr(typed, name) not in (None, False)]
    if len(given) > 1:
        *others, _ = given = [f"--{name.replace('_', '-')}" for name in given]
        raise UserError(
            f"{' and '.join(given)} cannot be combined: leave out {' and '.join(others)}"
        )
    if typed.resolve and not typed.cfg:
        raise UserError("--resolve works with --cfg or --help only: type --cfg job --resolve")


def _refuse(message: str) -> NoReturn:
    raise UserError(f"{message}; --hydra-help explains the flags")


def _is_flag(name: str, flags: set[str]) -> bool:
    """Return True for a flag that argparse knows, also a shortened one (`--multi`)."""
    shortened = name.startswith("--") and any(flag.startswith(name) for flag in flags)
    return name in flags or (shortened and len(name) > len("--"))


def _key(flag: str) -> str:
    return flag.lstrip("-").replace("-", "_")


def _unknown_flag(flag: str, arguments: Sequence[str], flags: set[str]) -> str:
    after = list(arguments)[list(arguments).index(flag) + 1 :][:1]
    value = after[0] if after and not re.search("=|^-", after[0]) else "<value>"
    return (
        f"{flag} is no flag: options are typed without dashes, {_key(flag)}={value}; "
        f"flags are {', '.join(sorted(name for name in flags if name.startswith('--')))}"
    )


def _flags(parser: ArgumentParser, typed: Any) -> list[str]:
    """The flags that were typed, by their long names."""
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
    """Let `labels=0,1,2` mean a list; under -m it is a sweep, as Hydra has it.

    Quotes around it change nothing, except for the options in `quotable`: of these a value in
    quotes is one element, such as a path with a comma.
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
    """Let `edit.py --help` show the options of all edits where no edit= is given.

    The group is mandatory, and without `~edit` Hydra would ask for it instead of printing the help.
    """
    words = list(arguments)
    asked = bool({"--help", "-h"} & {*words})
    given = any(word.lstrip("+~").partition("=")[0] == "edit" for word in words)
    return [*words, "~edit"] if asked and not given else words


def push_as_override(arguments: Sequence[str]) -> list[str]:
    """Turn `--push <repository>` or `--push=<repository>` of export.py into `push=<repository>`."""
    words = list(arguments)
    if "--push" in words:  # with its value as the next word
        where = words.index("--push")
        words[where : where + 2] = [f"--push={''.join(words[where + 1 : where + 2])}"]
    return [re.sub("^--push=", "push=", word) for word in words]


def rung_overrides(arguments: Sequence[str], own: Sequence[str]) -> list[str]:
    """Gather the overrides of train.yaml that ladder.py takes into its option `words`.

    `own` are the names of the options that ladder.py has itself.
    """
    kept = ("-", "paths.", "hydra", *(f"{name}=" for name in own), "ladder.")
    overrides = [word for word in arguments if "=" in word or word.startswith("~")]
    for_rungs = [word for word in overrides if not word.lstrip("+~").startswith(kept)]
    words = [word for word in arguments if word not in for_rungs]
    if for_rungs:
        words.append(f"words=[{','.join(quoted(word) for word in for_rungs)}]")
    return words
