"""Import objects by dotted name, also from modules in the working folder."""

import logging
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from diffusion_lab.errors import UserError


def make_importable(name: str) -> None:
    """Add the working folder to sys.path if it alone holds the module of a dotted name.

    A script has its own folder on sys.path, a console command the one of the commands. Call it only
    for a name that the caller trusts: the folder stays on the path, last of all.
    """
    top = name.partition(".")[0]
    if not top.isidentifier() or top in sys.modules or find_spec(top) is not None:
        return
    from hydra.core.hydra_config import HydraConfig  # most names are this project's own

    hydra = HydraConfig.instance().cfg
    folders = [Path.cwd()] if hydra is None else [Path(hydra.hydra.runtime.cwd), Path.cwd()]
    for folder in folders:
        if (folder / f"{top}.py").is_file() or (folder / top / "__init__.py").is_file():
            sys.path.append(str(folder))
            return


def find_object(name: str) -> Any:
    """Import the object of a dotted name; UserError with the reason in one line."""
    from hydra.utils import get_object

    make_importable(name)
    logger = logging.getLogger("hydra.utils")
    disabled, logger.disabled = logger.disabled, True  # it would print what is raised
    try:
        return get_object(name)
    except (ImportError, ValueError) as error:
        cause = error.__cause__ or error
        top, (parent, _, last) = name.partition(".")[0], name.rpartition(".")
        if isinstance(cause, ModuleNotFoundError) and cause.name == name != top:
            raise UserError(f"{parent} has no {last}") from error
        if isinstance(cause, ModuleNotFoundError) and cause.name == top:
            raise UserError(
                f"there is no module {top}: run the command from the folder that holds {top}.py, "
                "or install it"
            ) from error
        raise UserError(f"{type(cause).__name__}: {str(cause).splitlines()[0]}") from error
    finally:
        logger.disabled = disabled
