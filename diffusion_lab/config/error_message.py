"""One-line error messages for exceptions that the user can do something about."""

import re

from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException
from yaml import YAMLError
from yaml.error import MarkedYAMLError

from diffusion_lab.config.unknown_keys import unknown_key
from diffusion_lab.errors import UserError, short_path, unknown_name
from diffusion_lab.system.system_errors import fault

_BY_RESOLVER = "UserError raised while resolving interpolation: "
_YAML_HINTS = {
    "mapping values are not allowed": "a line is indented too far, or a text with a colon needs "
    "quotes",
    "cannot start any token": "indent with spaces instead of tabs, and quote texts that begin with "
    "a special character",
    "found duplicate key": "leave out one of the two lines",
}
"""Part of a message of the YAML parser -> what to do."""


def chain(error: BaseException) -> list[BaseException]:
    """Return an exception, its cause, the cause's cause and so on, in this order."""
    links: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in links:
        links.append(link)
        # Hydra raises an error of its own while it handles OmegaConf's, without "from"
        link = link.__cause__ or (link.__context__ if isinstance(link, HydraException) else None)
    return links


def one_line(error: BaseException) -> str | None:
    """Return a one-line message for a user error or system error; None for other exceptions."""
    reason = _reason(error)
    if reason is None:
        return None
    reason = re.sub(r"\s*\n\s*", " ", reason.strip())  # some libraries write several lines
    # messages repeat values, which may contain control characters for a terminal
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in reason)


def _reason(error: BaseException) -> str | None:
    links = chain(error)
    for link in links:
        if isinstance(link, UserError):
            return str(link)
        if isinstance(link, YAMLError):
            return yaml_error(link)
    if refused := fault(error):
        return refused
    for link in reversed(links):
        if isinstance(link, ConfigKeyError | ConfigAttributeError) and link.full_key:
            return unknown_key(link, _typed(links))
        if isinstance(link, OmegaConfBaseException) and (said := link.msg or str(link)):
            line = said.splitlines()[0]
            if missing := re.search(r"Missing mandatory value: (\S+)", line):
                key = missing[1]
                return (
                    f"{key} is missing: type {key}=<value>, or write it into the YAML file of "
                    f"{key.partition('.')[0]}="
                )
            if _BY_RESOLVER in line:  # of a resolver; OmegaConf does not chain it
                return line.partition(_BY_RESOLVER)[2]
            named = not link.full_key or link.full_key in line
            return line if named else f"{link.full_key}: {line}"
    if str(error).startswith("Config group override must be"):  # a plain ValueError of Hydra
        return (
            "a group is null: expected the name of one of the group's options; for no logger type "
            "logger=[]"
        )
    for link in links:
        if isinstance(link, MissingConfigException) and link.options:
            group, _, name = str(link.missing_cfg_file).rpartition("/")
            return unknown_name(group, name, list(link.options))
        if isinstance(link, OverrideParseException):
            return _not_understood(link)
    if any(isinstance(link, HydraException) for link in links):
        text = re.split("Config search path:|To append to your", str(error))[0]
        return " ".join(text.split())
    return None


def yaml_error(error: YAMLError) -> str:
    """Return "<file>, line <n>: <reason>" in one line, with a hint for the commonest mistakes."""
    mark = error.problem_mark if isinstance(error, MarkedYAMLError) else None
    if mark is None or not isinstance(error, MarkedYAMLError):
        return " ".join(f"a YAML file cannot be read: {error}".split())
    problem = error.problem or "invalid YAML"
    hint = next((f" ({text})" for start, text in _YAML_HINTS.items() if start in problem), "")
    return f"{short_path(mark.name)}, line {mark.line + 1}: {problem}{hint}"


def _typed(links: list[BaseException]) -> str:
    """Extract the override with the unknown key from Hydra's errors; "" if the key is in a file."""
    found = [re.search(r"To append to your config use \+(.*)", str(link)) for link in links]
    return next((match[1] for match in found if match), "")


def _not_understood(error: OverrideParseException) -> str:
    """Return an error message that quotes the override with invalid syntax; Hydra's does not."""
    word = error.override
    name, equals, value = word.partition("=")
    what = " ".join(error.message.partition("\nSee ")[0].split())
    hint = f"; to keep the value as it is, type \"{name}='{value}'\"" if equals else ""
    return f"{word} is not understood ({what}){hint}"
