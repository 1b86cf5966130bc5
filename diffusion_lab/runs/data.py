"""Load the data set that a run was trained on, or one that the command line names."""

from collections.abc import Mapping
from typing import Any

from diffusion_lab.config.instantiate import build
from diffusion_lab.config.trusted import construct
from diffusion_lab.config.validate import check_config
from diffusion_lab.data.datamodule import ImageDataModule
from diffusion_lab.errors import UserError
from diffusion_lab.runs.load import Run


def run_data(run: Run, data_dir: str | None, **settings: Any) -> ImageDataModule:
    """Load the data set that a run was trained on.

    `data_dir` replaces the folder that the training used, unless it is None; `settings` replace
    other settings of the data. Raises UserError if the saved configuration does not build an
    ImageDataModule.
    """
    given = settings | ({} if data_dir is None else {"data_dir": data_dir})
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
    data.setup()
    return data


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
