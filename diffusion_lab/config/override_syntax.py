"""Values as Hydra's grammar writes them."""

import re


def quoted(text: str) -> str:
    """As a value of Hydra's grammar."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def unquoted(text: str) -> str:
    """What a value of Hydra's grammar stands for, with quotes or without."""
    if len(text) < 2 or text[0] not in "'\"" or text[-1] != text[0]:
        return text
    return re.sub(r"\\(['\"\\])", r"\1", text[1:-1])
