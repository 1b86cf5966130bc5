"""Load the data set that a run was trained on, or one that the command line names."""

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from diffusion_lab.config.instantiate import build
from diffusion_lab.config.schema.data import SourceConfig
from diffusion_lab.config.trusted import construct
from diffusion_lab.config.validate import check_config
from diffusion_lab.data.datamodule import ImageDataModule
from diffusion_lab.errors import UserError
from diffusion_lab.runs.load import Run


def run_data(
    run: Run, data_dir: str | None, data_path: str | None = None, **settings: Any
) -> ImageDataModule:
    """Load the data set that a run was trained on.

    `data_dir` and `data_path` replace the folder and the data.path= that the training used, unless
    they are None; `settings` replace other settings of the data. Raises UserError if the data.path=
    does not exist, and if the saved configuration does not build an ImageDataModule.
    """
    recorded = run.config["data"].get("path")
    if data_path is not None and recorded is None:
        raise UserError(
            f"paths.data_path={data_path} has no effect, because the run has no data.path=: leave "
            "it out"
        )
    if data_path is None and recorded is not None and not Path(recorded).expanduser().exists():
        raise UserError(
            f"data.path={recorded} of the run does not exist here: type paths.data_path=<where its "
            "images lie now>"
        )
    moved = {"data_dir": data_dir, "path": data_path}
    given = settings | {key: place for key, place in moved.items() if place is not None}
    try:
        data = construct(run.config["data"] | given, run.trust)
    except TypeError as error:
        raise UserError(
            f"the saved configuration does not build a data set: {error}; use another run"
        ) from error
    if not isinstance(data, ImageDataModule):
        raise UserError(
            f"data._target_ of the saved configuration builds a {type(data).__name__}: expected "
            "an ImageDataModule; use another run"
        )
    # with the VAE and the statistics of the training; other settings are in the configuration
    data.value_range = run.value_range
    data.setup()
    return data


def data_words(config: Mapping[str, Any]) -> str:
    """Return the data options that were typed for a training, as another command takes them.

    `config` is the run's configuration. Options of the training alone, such as data.flip=, are left
    out. Empty if the configuration does not record what was typed.
    """
    command = config.get("command")
    if not isinstance(command, Mapping):
        return ""
    choices, overrides = command.get("choices"), command.get("overrides")
    chosen = choices.get("data") if isinstance(choices, Mapping) else None
    if not isinstance(chosen, str):
        return ""
    shared = {field.name for field in fields(SourceConfig)}
    typed = [str(word) for word in (overrides if isinstance(overrides, Sequence) else ())]
    of_data = [word for word in typed if word.lstrip("+").startswith("data.")]
    kept = [word for word in of_data if re.split("[.=]", word)[1] in shared]
    return " ".join(shlex.quote(word) for word in (f"data={chosen}", *kept))


def named_data(settings: Mapping[str, Any], data_dir: str | None) -> ImageDataModule:
    """Build the data module for a command's `data=` option, without loading any images.

    `settings` are arguments of ImageDataModule, such as those in configs/data. Raises UserError for
    unknown or invalid arguments.
    """
    node: dict[str, Any] = {
        "_target_": "diffusion_lab.data.datamodule.ImageDataModule",
        "_convert_": "all",
        "data_dir": data_dir,
        **settings,
    }
    check_config({"data": node})
    data = build(node)
    if not isinstance(data, ImageDataModule):
        raise UserError(f"data._target_={node['_target_']}: expected an ImageDataModule")
    return data
