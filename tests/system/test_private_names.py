"""Private names of Lightning are used in system/lightning.py and nowhere else."""

import ast
import importlib
import inspect
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import lightning.fabric
import lightning.pytorch
import pytest

import diffusion_lab

PACKAGE = Path(diffusion_lab.__file__).parent
ALLOWED = PACKAGE / "system" / "lightning.py"
_ATTRIBUTE = re.compile(
    r"\b\w+\.(_[a-z]\w*)|\bdef (_[a-z]\w*)|^\s+(_[a-z]\w*)\s*[:=]", re.MULTILINE
)


def private_names(source: str) -> set[str]:
    """Return the attributes and methods with one leading underscore in a source text."""
    return {name for match in _ATTRIBUTE.findall(source) for name in match if name}


@cache
def lightnings_names() -> frozenset[str]:
    """Return every private attribute and method in Lightning's sources."""
    roots = (Path(module.__file__).parent for module in (lightning.pytorch, lightning.fabric))
    files = (path for root in roots for path in root.rglob("*.py"))
    return frozenset().union(*(private_names(path.read_text()) for path in files))


def inherited_names(kind: type) -> set[str]:
    """Return the private attributes and methods that a class inherits from Lightning."""
    names: set[str] = set()
    for base in kind.__mro__:
        if base.__module__.startswith("lightning."):
            names |= private_names(inspect.getsource(base))
    return names


def uses(tree: ast.Module, classes: dict[str, set[str]]) -> Iterator[tuple[int, str]]:
    """Yield line and name of each use of a private name of Lightning.

    `classes` maps each class of the file to the private names that it inherits. Names on an
    imported module (torch._foreach_norm) belong to that module; a class that inherits nothing from
    Lightning owns its names.
    """
    modules = {
        alias.asname or alias.name.partition(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import)
        for alias in node.names
        if not alias.name.startswith("lightning")
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("lightning"):
            for name in [*(node.module or "").split("."), *(alias.name for alias in node.names)]:
                if name.startswith("_"):
                    yield node.lineno, name
        elif isinstance(node, ast.Attribute) and _is_foreign(node, modules):
            yield node.lineno, node.attr
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("getattr", "setattr"):
            name = node.args[1].value if isinstance(node.args[1], ast.Constant) else ""
            if name in lightnings_names() and name not in _TORCH:
                yield node.lineno, name
        elif isinstance(node, ast.ClassDef):
            for child in ast.walk(node):
                if isinstance(child, ast.Attribute) and _is_own(child.value):
                    name = child.attr
                elif isinstance(child, ast.FunctionDef):
                    name = child.name
                else:
                    continue
                if name in classes.get(node.name, set()):
                    yield child.lineno, name


_TORCH = {"_step_supports_amp_scaling", "_orig_mod"}
"""Attributes that torch defines and Lightning reads too."""


def _is_own(node: ast.expr) -> bool:
    return ast.unparse(node) in ("self", "cls", "super()")


def _is_foreign(node: ast.Attribute, modules: set[str]) -> bool:
    name = node.attr
    if name not in lightnings_names() or name in _TORCH or _is_own(node.value):
        return False
    return ast.unparse(node.value).partition(".")[0] not in modules


def of_file(path: Path) -> list[tuple[int, str]]:
    dotted = ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)
    dotted = dotted.removesuffix(".__init__")
    tree = ast.parse(path.read_text())
    if "lightning" not in path.read_text():  # does not use Lightning at all
        return []
    module = importlib.import_module(dotted)
    classes = {
        name: inherited_names(kind)
        for name, kind in inspect.getmembers(module, inspect.isclass)
        if kind.__module__ == dotted
    }
    return sorted(set(uses(tree, classes)))


FILES = [path for path in sorted(PACKAGE.rglob("*.py")) if path.name != "__main__.py"]


def test_only_one_file_uses_private_names_of_lightning():
    elsewhere = {
        str(path.relative_to(PACKAGE)): names
        for path in FILES
        if path != ALLOWED and (names := of_file(path))
    }
    assert elsewhere == {}


def test_the_search_detects_names_in_that_file():
    assert len({name for _, name in of_file(ALLOWED)}) >= 8


@pytest.mark.parametrize(
    "line",
    [
        "trainer._logger_connector.metrics",
        "getattr(trainer, '_checkpoint_connector')",
        "from lightning.pytorch.trainer.connectors.logger_connector import _LoggerConnector",
        "class Own(L.Callback):\n    def _generate_state_key(self): ...",
        "class Own(L.Callback):\n    def key(self):\n        return self._generate_state_key()",
    ],
)
def test_a_new_use_is_detected(line):
    tree = ast.parse("import lightning as L\n" + line)
    assert list(uses(tree, {"Own": inherited_names(lightning.pytorch.Callback)}))


@pytest.mark.parametrize(
    "line",
    [
        "import torch\ntorch._foreach_norm([])",
        "class Own(L.Callback):\n    def _mine(self):\n        return self._mine()",
    ],
)
def test_private_names_of_others_are_ignored(line):
    tree = ast.parse("import lightning as L\n" + line)
    assert not list(uses(tree, {"Own": inherited_names(lightning.pytorch.Callback)}))
