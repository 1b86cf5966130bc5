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
    source = _standalone(file, set())
    if re.search(r"^\s*(from|import) diffusion_lab", source, re.MULTILINE):
        raise UserError(
            f"{type(model).__name__} cannot be exported: {file} imports diffusion_lab, but must "
            f"work without this project; import only UserError and modules of {NETWORKS[:-1]}"
        )
    return source


def _standalone(file: Path, included: set[str]) -> str:
    """Return the code of a file with the code of each imported file in place of its import."""
    source = file.read_text()
    lines = source.splitlines()
    for node in reversed(ast.parse(source).body):
        if not isinstance(node, ast.ImportFrom) or any(alias.asname for alias in node.names):
            continue
        module, code = node.module or "", ""
        if module == "diffusion_lab.errors" and node.names[0].name == "UserError":
            code = "UserError = ValueError"
        elif not module.startswith(NETWORKS):
            continue
        elif module not in included:
            included.add(module)
            code = _standalone(Path(inspect.getfile(import_module(module))), included)
        lines[node.lineno - 1 : node.end_lineno] = code.splitlines()
    return "\n".join(lines) + "\n"
