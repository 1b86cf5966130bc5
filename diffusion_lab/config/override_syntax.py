"""Quoting of values in Hydra's override syntax."""

import re


def quoted(text: str) -> str:
    """Quote a text so that Hydra's override parser reads it as one string."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def unquoted(text: str) -> str:
    """Remove the quotes around a value, if any, together with the escapes inside them."""
    if len(text) < 2 or text[0] not in "'\"" or text[-1] != text[0]:
        return text
    return re.sub(r"\\(['\"\\])", r"\1", text[1:-1])
