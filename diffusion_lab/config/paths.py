"""The folder of the YAML files of the commands."""

from pathlib import Path

_PACKAGE = Path(__file__).parents[1]

# a wheel carries the configs inside the package, a checkout has them beside it
CONFIG_DIR = next(p for p in (_PACKAGE / "configs", _PACKAGE.parent / "configs") if p.is_dir())
