"""Load the data set that a run was trained on."""

from typing import Any

from diffusion_lab.config.trusted import construct
from diffusion_lab.data.datamodule import ImageDataModule
from diffusion_lab.errors import UserError
from diffusion_lab.runs.load import Run


def run_data(run: Run, data_dir: str | None, **settings: Any) -> ImageDataModule:
    """Load a run's data set, from `data_dir` if given, with `settings` changed.

    Raises UserError if the saved configuration does not build an ImageDataModule.
    """
    given = settings | ({} if data_dir is None else {"data_dir": data_dir})
    try:
        data = construct(run.config["data"] | given, run.trust)
    except TypeError as error:
        raise UserError(f"the data of the saved configuration cannot be built: {error}") from error
    if not isinstance(data, ImageDataModule):
        raise UserError(
            f"the data of the saved configuration are a {type(data).__name__}: expected an "
            "ImageDataModule"
        )
    data.setup()
    return data
