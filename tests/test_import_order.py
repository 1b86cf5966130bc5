"""A room imports only itself and the rooms below it: the table is docs/architecture.md's."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "diffusion_lab"
ROOMS = [
    "errors",
    "system",
    "networks",
    "diffusion",
    "optim",
    "data",
    "config",
    "modules",
    "figures",
    "evaluation",
    "sampling",
    "export",
    "callbacks",
    "runs",
    "training",
    "scoring",
    "commands",
    "cli",
    "tools",
    "benchmark",
]
"""From the bottom to the top."""
FILES = sorted(path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py"))


def imported(path: Path) -> list[str]:
    """Return the modules of this package that a file imports anywhere, dotted without its name."""
    names = []
    for node in ast.walk(ast.parse((PACKAGE / path).read_text())):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names += [node.module or ""]
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return [name.partition(".")[2] for name in names if name.startswith("diffusion_lab.")]


def room(dotted: str) -> str:
    return dotted.partition(".")[0]


@pytest.mark.parametrize("path", [path for path in FILES if len(path.parts) > 1], ids=str)
def test_imports_run_down(path):
    own = ROOMS.index(path.parts[0])
    upward = {name for name in imported(path) if room(name) in ROOMS[own + 1 :]}
    assert not upward


def test_there_is_no_other_room():
    found = {path.parts[0].removesuffix(".py") for path in FILES} - {"__init__"}
    assert found == set(ROOMS)


def test_no_circle_of_files():
    """Not within a room either, imports inside functions included."""
    dotted = {
        ".".join(path.with_suffix("").parts).removesuffix(".__init__"): path for path in FILES
    }
    below = {
        name: {other for other in imported(path) if other in dotted and other != name}
        for name, path in dotted.items()
        if path.name != "__init__.py"
    }
    while ends := [name for name, others in below.items() if not others & below.keys()]:
        for name in ends:
            del below[name]
    assert not below


def test_no_folder_is_crowded_or_named_after_nothing():
    """Among a dozen files one finds a subject at a glance."""
    folders = {path.parent for path in FILES}
    for folder in folders:
        files = [path for path in FILES if path.parent == folder and path.stem != "__init__"]
        assert len(files) <= 13, folder
        assert not {*folder.parts} & {"run", "utils", "common", "helpers"}
