"""Train, resume or reuse one training of a ladder, and score its samples."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from diffusion_lab.commands.ladder.rungs import Rung, differences
from diffusion_lab.config.instantiate import build
from diffusion_lab.config.trusted import check_targets
from diffusion_lab.data.latents.decoder import range_of
from diffusion_lab.data.shape import image_shape
from diffusion_lab.errors import Diverged, UserError
from diffusion_lab.evaluation.scorer import ImageScorer
from diffusion_lab.runs.load import Run, load_run
from diffusion_lab.runs.saved_config import UnreadableConfig, read_config
from diffusion_lab.runs.state import read_record
from diffusion_lab.scoring.choose_scorer import choose_image_scorer
from diffusion_lab.scoring.draw_set import SampleSet, draw_set
from diffusion_lab.scoring.score_sets import NAME, score_sets
from diffusion_lab.system.device import choose_device
from diffusion_lab.system.output import results_folder, save_arrays
from diffusion_lab.training.train import train

SHOWN = 16  # samples of a rung in the figure
# settings that may differ when a training is resumed, such as on another machine
_MAY_CHANGE = {"trainer.accelerator", "callbacks.progress.seconds"}


@dataclass
class RungRun:
    """A training of a rung with one seed."""

    rung: Rung
    seed: int
    folder: Path
    config: DictConfig
    trust: Sequence[str] = ()
    """Further packages whose classes the configuration may name."""

    @property
    def title(self) -> str:
        """Name of the training in progress lines."""
        return f"{self.rung.title}, seed {self.seed}"

    def record(self) -> dict[str, Any]:
        """Read metrics.json; {} if it is missing or damaged."""
        return read_record(self.folder)

    @property
    def trained(self) -> bool:
        """True once the training is finished."""
        return self.record().get("status") == "finished"

    def check(self) -> None:
        """Raise UserError for a folder of a different training, or a class that is not trusted."""
        config = cast(dict[str, Any], OmegaConf.to_container(self.config, resolve=True))
        check_targets([config["model"], config["sampler"], config["data"]], self.trust)
        if not (self.folder / ".hydra" / "config.yaml").is_file():
            return
        try:
            saved = read_config(self.folder).config
        except UnreadableConfig as error:
            raise UserError(
                f"{error.reason}: remove {self.folder}, or type out=<another folder>"
            ) from error
        for key, (had, wanted) in differences(saved, self.config).items():
            if key not in _MAY_CHANGE:
                raise UserError(
                    f"{self.folder} was trained with {key}={had}, but this ladder has {wanted}: "
                    "type out=<another folder>, or the same overrides as before"
                )

    def train(self) -> None:
        """Train to the end; resume a training that was interrupted.

        Raises the errors of training. Raises Diverged at once if an earlier start diverged, because
        the training would diverge again.
        """
        record = self.record()
        if record.get("status") == "diverged":
            raise Diverged(record.get("error", "the training diverged"))
        train(self.config, resume=bool(record))

    def score(self, scorer: ImageScorer, num_samples: int, batch_size: int) -> dict[str, Any]:
        """Sample with the training's seed and score the samples; return evaluation.json's content.

        An evaluation with the same settings and extractor is reused.
        """
        run = load_run(self.folder, trust=self.trust)
        about = {
            "run": str(run.dir),
            "checkpoint": "last",
            "weights": run.weights,
            "sampler": run.config["sampler"],
            "num_samples": num_samples,
            "seeds": [self.seed],
        }
        for path in sorted(self.folder.glob(f"evaluation/*/{NAME}")):
            saved = _read(path)
            same = saved.get("extractor", {}).get("sha256") == scorer.extractor.sha256
            if same and all(saved.get(key) == about[key] for key in about if key != "run"):
                return saved
        device = choose_device(self.config.trainer.accelerator)
        run.module.to(device)
        out = results_folder(None, self.folder / "evaluation")
        sampler = run.sampler()
        conditioning = run.conditioning()

        def draw() -> SampleSet:
            samples = draw_set(
                run,
                sampler,
                conditioning,
                num_samples=num_samples,
                seed=self.seed,
                batch_size=batch_size,
            )
            save_arrays(out / "samples.npz", images=samples.images[:SHOWN])
            return samples

        more = {"batch_size": batch_size, "device": str(device), "threads": torch.get_num_threads()}
        return score_sets(scorer, [draw], about | more, out).record

    def samples(self) -> Tensor:
        """Read the samples that the newest evaluation kept for the figure, uint8 (N, C, H, W)."""
        newest = max(
            self.folder.glob(f"evaluation/*/{NAME}"), key=lambda path: path.stat().st_mtime
        )
        return torch.from_numpy(np.load(newest.with_name("samples.npz"))["images"])


def choose_ladder_scorer(
    name: str | None, cfg: DictConfig, data_dir: str | None, trust: Sequence[str] = ()
) -> ImageScorer:
    """Choose the scorer for all trainings of a ladder from the configuration of one of them.

    Raises UserError if there is no extractor for the data set.
    """
    config = cast(dict[str, Any], OmegaConf.to_container(cfg, resolve=True))
    data = config["data"]
    untrained = Run(
        dir=Path(config["paths"]["output_dir"]),
        config=config,
        module=build(cfg.model),
        value_range=range_of(data),
        image_shape=image_shape(data),
        weights="raw",
        trust=trust,
    )
    device = choose_device(config["trainer"]["accelerator"])
    return choose_image_scorer(name, untrained, data_dir, device=device)


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
