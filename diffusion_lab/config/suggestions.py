"""Suggestions for a mistyped name."""

from collections.abc import Sequence
from difflib import get_close_matches


def near(name: str, known: Sequence[str], most: int = 3) -> list[str]:
    """Return the known names that resemble a mistyped one, the most similar first."""
    lower = {other.lower(): other for other in known}
    found = get_close_matches(name.lower(), lower, n=most, cutoff=0.6)
    # a shortened name, or one with a part too many: flow_heun, heun2
    found += [k for k in lower if k not in found and len(name) > 2 and name.lower() in k]
    return [lower[key] for key in found[:most]]


def unknown_name(setting: str, name: str, known: Sequence[str]) -> str:
    """Tell what `setting=name` was probably meant to be, or list what there is."""
    if meant := near(name, known):
        return f"{setting}={name} is unknown: did you mean {' or '.join(meant)}?"
    return f"{setting}={name} is unknown: choose from {', '.join(known)}"
