"""Tables for the terminal."""

import io
from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table


def table_text(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table with a title and column names as text, at most 200 characters wide."""
    table = Table(*columns, title=title, title_justify="left")
    for row in rows:
        table.add_row(*(escape(cell) for cell in row))
    text = io.StringIO()
    Console(file=text, width=200).print(table)
    return text.getvalue().rstrip()
