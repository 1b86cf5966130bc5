"""Update saved configurations that contain old dotted names of moved classes."""

from collections.abc import Mapping
from typing import Any

MOVED = {
    "diffusion_lab.modules.lr_schedule.": "diffusion_lab.optim.lr_schedule.",
    "diffusion_lab.modules.muon.": "diffusion_lab.optim.muon.",
    "diffusion_lab.diffusion.LinearSchedule": "diffusion_lab.diffusion.StraightPath",
    "diffusion_lab.diffusion.Weighting": "diffusion_lab.diffusion.UniformWeighting",
}
"""Old prefix of a dotted name -> new prefix."""
_BY_PATH = "hydra.utils.get_method"
_PAIRINGS = "diffusion_lab.diffusion."
"""Prefix of functions that older configurations pass to `get_method` as `path`."""
_KEYS = ("_target_", "path")


def with_new_names(node: Any) -> Any:
    """Return a plain configuration in which old dotted names of moved classes are replaced."""
    if isinstance(node, Mapping):
        if node.get("_target_") == _BY_PATH and str(node.get("path")).startswith(_PAIRINGS):
            return {"_target_": node["path"], "_partial_": True}
        return {
            key: _new_name(value)
            if key in _KEYS and isinstance(value, str)
            else with_new_names(value)
            for key, value in node.items()
        }
    if isinstance(node, list | tuple):
        return [with_new_names(child) for child in node]
    return node


def _new_name(name: str) -> str:
    for old, new in MOVED.items():
        if name.startswith(old):
            return new + name.removeprefix(old)
    return name
