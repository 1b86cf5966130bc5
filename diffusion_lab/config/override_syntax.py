"""Quoting of values in Hydra's override syntax."""

import re


def quoted(text: str) -> str:
    """Quote a text, so that Hydra reads the text as one value."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def unquoted(text: str) -> str:
    """Remove the quotes around a value, if there are any."""
    if len(text) < 2 or text[0] not in "'\"" or text[-1] != text[0]:
        return text
    return re.sub(r"\\(['\"\\])", r"\1", text[1:-1])
