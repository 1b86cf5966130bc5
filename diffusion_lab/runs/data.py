"""The data set that a run was trained on."""

from typing import Any

from diffusion_lab.config.trusted import construct
from diffusion_lab.data.datamodule import ImageDataModule
from diffusion_lab.errors import UserError
from diffusion_lab.runs.load import Run


def run_data(run: Run, data_dir: str | None, **settings: Any) -> ImageDataModule:
    """The data a run was trained on, loaded, with settings changed; `data_dir` as above."""
    given = settings | ({} if data_dir is None else {"data_dir": data_dir})
    try:
        data = construct(run.config["data"] | given, run.trust)
    except TypeError as error:
        raise UserError(f"the saved configuration's data: {error}") from error
    if not isinstance(data, ImageDataModule):
        raise UserError("the saved configuration's data are no ImageDataModule")
    data.setup()
    return data
