"""Describe an exception in one line, if the user can do something about it."""

import re

from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from diffusion_lab.config.unknown_keys import unknown_key
from diffusion_lab.errors import UserError, unknown_name
from diffusion_lab.system.system_errors import fault


def chain(error: BaseException) -> list[BaseException]:
    """An error and its causes."""
    links: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in links:
        links.append(link)
        # Hydra raises anew while it handles OmegaConf's error, without saying "from"
        link = link.__cause__ or (link.__context__ if isinstance(link, HydraException) else None)
    return links


def one_line(error: BaseException) -> str | None:
    """One line for a mistake of the user or a fault of the machine; None for any other error."""
    reason = _reason(error)
    if reason is None:
        return None
    reason = re.sub(r"\s*\n\s*", " ", reason.strip())  # of a library that writes several lines
    # it repeats values, which may hold commands to a terminal
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in reason)


def _reason(error: BaseException) -> str | None:
    links = chain(error)
    for link in links:
        if isinstance(link, UserError):
            return str(link)
    if refused := fault(error):
        return refused
    for link in reversed(links):
        if isinstance(link, ConfigKeyError | ConfigAttributeError) and link.full_key:
            return unknown_key(link, _typed(links))
        if isinstance(link, OmegaConfBaseException) and (said := link.msg or str(link)):
            line = said.splitlines()[0]
            named = not link.full_key or link.full_key in line
            return line if named else f"{link.full_key}: {line}"
    if str(error).startswith("Config group override must be"):  # a bare ValueError of Hydra's
        return "a group is null: choose one of its options, or logger=[] for no logger"
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


def _typed(links: list[BaseException]) -> str:
    """The override with an unknown key, as Hydra's error repeats it; "" for a key of a file."""
    found = [re.search(r"To append to your config use \+(.*)", str(link)) for link in links]
    return next((match[1] for match in found if match), "")


def _not_understood(error: OverrideParseException) -> str:
    """The message for an override that is no valid syntax; Hydra's own does not repeat it."""
    word = error.override
    name, equals, value = word.partition("=")
    what = " ".join(error.message.partition("\nSee ")[0].split())
    hint = f"; quotes within quotes keep it as it is, \"{name}='{value}'\"" if equals else ""
    return f"{word} is not understood ({what}){hint}"
