"""Initial state of a training: pretrained weights (init_from=) and reflow pairs (teacher.run=)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from diffusion_lab.config.validate import check_config, check_one_initial_network
from diffusion_lab.data.datamodule import ImageDataModule
from diffusion_lab.errors import UserError
from diffusion_lab.modules import DiffusionModule
from diffusion_lab.runs.diffusers_pipeline import (
    Pipeline,
    load_weights,
    read_pipeline,
    use_network_of,
)
from diffusion_lab.runs.load import Run
from diffusion_lab.sampling.progress import planned_work
from diffusion_lab.training.reflow import (
    draw_pairs,
    pairs_work,
    read_pairs,
    read_teacher,
    use_parts_of,
)

PAIRS_FILE = "pairs.npz"


@dataclass(frozen=True)
class InitialState:
    """Initial state of a training: the pipeline of `init_from=`, the teacher of `teacher.run=`."""

    pipeline: Pipeline | None = None
    teacher: Run | None = None
    """None without teacher.run=, and for a resumed run, because its pairs are saved already."""
    pairs_file: Path | None = None
    """File of the teacher's pairs; None without teacher.run=."""

    def check(self, cfg: DictConfig, datamodule: ImageDataModule) -> None:
        """Raise UserError if teacher.num_pairs leaves no pairs to train on."""
        if self.pairs_file is not None:
            datamodule.check_pairs(cfg.teacher.num_pairs)

    def load_into(self, module: DiffusionModule, cfg: DictConfig) -> None:
        """Load the weights of the pipeline or the teacher, if any, into the module."""
        if self.pipeline is not None:
            load_weights(module.network, self.pipeline, cfg.init_from)
        if self.teacher is not None:
            weights = self.teacher.module.state_dict()
            weights.pop("augment_embedding.weight", None)  # pairs are not augmented
            if self.teacher.config["weighting"] != OmegaConf.to_container(
                cfg.weighting, resolve=True
            ):  # a weighting may have parameters too
                weights = {k: v for k, v in weights.items() if not k.startswith("weighting.")}
                weights |= module.weighting.state_dict(prefix="weighting.")
            module.load_state_dict(weights)

    def use_pairs(
        self,
        cfg: DictConfig,
        datamodule: ImageDataModule,
        module: DiffusionModule,
        device: torch.device,
    ) -> None:
        """Make the teacher's pairs of noise and image the training data; do nothing without pairs.

        The pairs are sampled first unless their file exists already.
        """
        if self.pairs_file is None:
            return
        if self.teacher is not None:
            with planned_work(None, pairs_work(self.teacher, cfg)):
                draw_pairs(self.teacher, cfg, self.pairs_file, device)
        pairs = read_pairs(self.pairs_file, cfg.seed, module.noise_schedule)
        datamodule.use_pairs(pairs.images, pairs.labels, pairs.noise, cfg.teacher.run)


def read_initial_state(
    cfg: DictConfig,
    config: dict[str, Any],
    run_dir: Path,
    continued: bool,
    trust: Sequence[str] = (),
) -> tuple[InitialState, dict[str, Any]]:
    """Read the pipeline of init_from= and the teacher of teacher.run=, if they are given.

    Puts the pipeline's network, or the teacher's network, noise schedule, prediction and data, into
    `cfg`. Returns the initial state and the resolved configuration.

    `config` is the resolved `cfg`. `continued` is True for a resumed run. `trust` lists
    packages whose classes the teacher may name. Raises UserError for a missing or damaged file, and
    for an override of a setting that the pipeline or the teacher determines.
    """
    check_one_initial_network(cfg)
    pipeline = None
    if cfg.init_from is not None:
        pipeline = read_pipeline("init_from", cfg.init_from)
        config = use_network_of(pipeline, cfg)
    if "teacher" not in cfg or cfg.teacher.run is None:
        return InitialState(pipeline), config
    check_config({"teacher": config["teacher"]})
    pairs_file = run_dir / PAIRS_FILE
    if continued and pairs_file.exists():
        return InitialState(pipeline, pairs_file=pairs_file), config
    teacher = read_teacher(cfg, trust)
    return InitialState(pipeline, teacher, pairs_file), use_parts_of(teacher, cfg)


def check_same_data(before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raise UserError if the images differ from the ones that a resumed run was trained on.

    `before` and `now` describe the data; the images are compared by their SHA-256.
    """
    if before["sha256"] != now["sha256"]:
        then, found = (
            f"{data['dataset']} ({data['source']}, sha256 {data['sha256'][:8]})"
            for data in (before, now)
        )
        files = "restore the files of data.path=, or type data.path=<where they lie now>"
        remedies = {
            "pictures": files,
            "npz": files,
            "huggingface": "restore the data set of data.name=, or start a new run",
            "full": "type paths.data_dir=<folder of the original images>",
            "function": "make data.images._target_ return the original images, or start a new run",
        }
        raise UserError(
            f"this run was trained on {then}, but the images found now are {found}: expected the "
            f"same images; {remedies.get(before['source'], 'start a new run')}"
        )
