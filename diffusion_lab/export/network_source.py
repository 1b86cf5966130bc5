"""Source code of a network for exported folders, without imports of this project."""

import ast
import inspect
import re
from importlib import import_module
from pathlib import Path

from torch import nn

from diffusion_lab.errors import UserError

NETWORKS = "diffusion_lab.networks."


def network_source(model: nn.Module) -> str | None:
    """Return the source code of a network's class, None for a class of diffusers.

    The code needs no other file of this project: imports from `diffusion_lab.networks` are replaced
    by the code of the imported files, and UserError by ValueError. Raises UserError if the code
    imports anything else of this project.
    """
    if type(model).__module__.startswith("diffusers."):
        return None
    file = Path(inspect.getfile(type(model)))
    source = _standalone(file, set(), {})
    if re.search(r"^\s*(from|import) diffusion_lab", source, re.MULTILINE):
        raise UserError(
            f"{type(model).__name__} cannot be exported: {file} imports diffusion_lab, but must "
            f"work without this project; import only UserError and modules of {NETWORKS[:-1]}"
        )
    return source


def _standalone(file: Path, included: set[str], owners: dict[str, str]) -> str:
    """Return the code of a file with the code of each imported file in place of its import.

    `owners` names the origin of each global of the code so far. Raises UserError if two files
    define the same one, because the last definition would count for both.
    """
    source = file.read_text()
    lines = source.splitlines()
    for node in reversed(ast.parse(source).body):
        for name, origin in _globals(node, file):
            if (other := owners.setdefault(name, origin)) != origin:
                raise UserError(
                    f"{name} is defined by {other} and by {origin}, whose code an export joins in "
                    "one file: rename one of them"
                )
        if not isinstance(node, ast.ImportFrom) or any(alias.asname for alias in node.names):
            continue
        module, code = node.module or "", ""
        if module == "diffusion_lab.errors" and [a.name for a in node.names] == ["UserError"]:
            code = "UserError = ValueError"
        elif not module.startswith(NETWORKS):
            continue
        elif module not in included:
            included.add(module)
            code = _standalone(Path(inspect.getfile(import_module(module))), included, owners)
        lines[node.lineno - 1 : node.end_lineno] = code.splitlines()
    return "\n".join(lines) + "\n"


def _globals(node: ast.stmt, file: Path) -> list[tuple[str, str]]:
    """Return the names that a statement defines, each with its origin: a file or a package."""
    if isinstance(node, ast.Import):
        return [(a.asname or a.name.partition(".")[0], a.name) for a in node.names if a.asname]
    if isinstance(node, ast.ImportFrom):
        module = node.module or ""
        if module.startswith("diffusion_lab."):
            return []
        return [(a.asname or a.name, f"{module}.{a.name}") for a in node.names]
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return [(node.name, str(file))]
    if not isinstance(node, ast.Assign | ast.AnnAssign):
        return []
    targets = node.targets if isinstance(node, ast.Assign) else [node.target]
    parts = [part for target in targets for part in ast.walk(target)]
    names = [part for part in parts if isinstance(part, ast.Name)]
    return [(name.id, str(file)) for name in names if isinstance(name.ctx, ast.Store)]
