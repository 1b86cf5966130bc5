"""scripts/tradeoff.py: compare quality and cost of many samplers for one checkpoint."""

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf
from tqdm import tqdm

from diffusion_lab.commands.tradeoff.results import SamplerResult, draw_tradeoff, lines, write_csv
from diffusion_lab.commands.tradeoff.sampler_grid import SamplerSetting, make_settings
from diffusion_lab.config.schema import TradeoffConfig
from diffusion_lab.config.validate import validate
from diffusion_lab.diffusion.guidance import EVERYWHERE
from diffusion_lab.errors import UserError
from diffusion_lab.evaluation.scorer import Scorer
from diffusion_lab.runs.load import Run
from diffusion_lab.runs.sampling_options import open_run
from diffusion_lab.sampling.conditioning import Conditioning
from diffusion_lab.sampling.progress import planned_work, times
from diffusion_lab.scoring.choose_scorer import choose_scorer
from diffusion_lab.scoring.draw_set import SampleSet, draw_set
from diffusion_lab.scoring.score_sets import read_seeds
from diffusion_lab.system.device import choose_device
from diffusion_lab.system.git import git_commit
from diffusion_lab.system.output import file_sha256, results_folder, write_json

log = logging.getLogger(__name__)

NAME = "tradeoff.json"
FID, KID = "fid", "kid"
ROUNDS = 3
"""Number of timed rounds, after one round for warm-up."""


@dataclass
class Tradeoff:
    """Result of tradeoff.py: cost and quality of every sampler setting."""

    cells: list[SamplerResult]
    out: Path
    lines: list[str]
    """The lines to print."""


def tradeoff(cfg: DictConfig) -> Tradeoff:
    """Time and score samplers of a run; write tradeoff.csv, .json and .png.

    All sampler settings are timed first, in turn, so that other load on the machine affects all of
    them alike. Then each setting is scored, and the files are written after each setting. An
    unfinished comparison with the same options in `out` is resumed. Raises UserError for a mistake
    in the configuration, before anything is sampled or written.
    """
    validate(cfg, TradeoffConfig)
    plain = cast(dict[str, Any], OmegaConf.to_container(cfg, resolve=True))
    seeds = read_seeds(plain["seeds"])
    run = open_run(cfg)
    conditioning = run.conditioning(plain["labels"], plain["guidance_scale"])
    cells, skipped = make_settings(
        _names(plain["samplers"]),
        _names(plain["spacings"]),
        _numbers_of_steps(plain["num_steps"]),
        run.module.noise_schedule,
        run.value_range,
    )
    device = choose_device(cfg.accelerator)
    scorer = choose_scorer(cfg.extractor, run, **cfg.paths, device=device)
    if cfg.num_samples < scorer.least:
        raise UserError(
            f"num_samples={cfg.num_samples}: expected more than {scorer.least - 1}, because "
            f"FID needs more images than {scorer.name} has features"
        )
    if scorer.primary == KID:
        log.warning(
            "samplers are ordered by KID, because there are only %d real test images: FID needs "
            "more than extractor %s has features",
            scorer.num_test,
            scorer.name,
        )
    run.module.to(device)
    content: dict[str, Any] = {
        "settings": {
            "run": str(run.dir.resolve()),
            "checkpoint": cfg.checkpoint,
            "checkpoint_sha256": file_sha256(run.dir / "checkpoints" / f"{cfg.checkpoint}.ckpt"),
            "weights": run.weights,
            "labels": list(conditioning.labels),
            "guidance_scale": conditioning.guidance_scale,
            **(
                {}
                if conditioning.interval == EVERYWHERE
                else {"guidance_interval": conditioning.interval}
            ),
            "cells": [cell.name for cell in cells],
            "num_samples": cfg.num_samples,
            "seeds": seeds,
            "batch_size": min(cfg.batch_size, cfg.num_samples),
            "device": str(device),
            **scorer.about(),
            **({} if scorer.primary == FID else {"metric": scorer.primary}),
        },
        "git_commit": git_commit(),
        "skipped": skipped,
    }
    out, content = _opened(cfg.out, run.dir / "tradeoff", content)

    work = _Work(run, conditioning, scorer, content, out)
    with planned_work(work.plan(cells), work.units(cells)):
        work.time(cells)
        work.score(cells)
    results = work.results(cells)
    draw_tradeoff(results, content["floor"], out / "tradeoff.png")
    return Tradeoff(results, out, lines(results, content))


class _Work:
    """Time and score sampler settings; save the record after each setting, for a later resume."""

    def __init__(
        self,
        run: Run,
        conditioning: Conditioning,
        scorer: Scorer,
        content: dict[str, Any],
        out: Path,
    ) -> None:
        self.run, self.conditioning, self.scorer = run, conditioning, scorer
        self.content, self.out = content, out
        self.settings = content["settings"]

    def plan(self, cells: Sequence[SamplerSetting]) -> str:
        """Return a line on the planned work: number of settings, finished settings, images."""
        done = sum(cell.name in self.content.get("scores", {}) for cell in cells)
        seeds = times(len(self.settings["seeds"]), "seed")
        return (
            f"timing and scoring {times(len(cells), 'sampler setting')}, {done} of them done "
            f"already: {times(self.settings['num_samples'], 'image')} per seed, {seeds}"
        )

    def units(self, cells: Sequence[SamplerSetting]) -> float:
        """Return the remaining work: number of images times sampler steps."""
        settings, scores = self.settings, self.content.get("scores", {})
        timed = 0 if "costs" in self.content else (ROUNDS + 1) * settings["batch_size"]
        scored = settings["num_samples"] * len(settings["seeds"])
        return sum(
            cell.num_steps * (timed + (0 if cell.name in scores else scored)) for cell in cells
        )

    def time(self, cells: Sequence[SamplerSetting]) -> None:
        """Record the median time of each setting over ROUNDS batches, after a warm-up batch.

        In each round all settings sample one batch.
        """
        if "costs" in self.content:
            return
        batch = self.settings["batch_size"]
        seconds: dict[str, list[float]] = {cell.name: [] for cell in cells}
        calls: dict[str, float] = {}
        with tqdm(total=(ROUNDS + 1) * len(cells), unit=" timings", disable=None) as bar:
            for turn in range(ROUNDS + 1):
                # reversed in every other round, so that a machine that heats up favours no sampler
                for cell in cells if turn % 2 else reversed(cells):
                    samples = self._sample(cell, batch, seed=0)
                    assert samples.seconds is not None
                    assert samples.num_calls is not None
                    calls[cell.name] = samples.num_calls
                    if turn > 0:
                        seconds[cell.name].append(samples.seconds)
                    bar.update()
        self.content["costs"] = {
            name: {"calls": calls[name], "milliseconds": 1000 * median(took) / batch}
            for name, took in seconds.items()
        }
        self._write(cells)

    def score(self, cells: Sequence[SamplerSetting]) -> None:
        """Sample and score num_samples images per seed with each sampler that has no scores yet."""
        n, costs = self.settings["num_samples"], self.content["costs"]
        if "floor" not in self.content:
            self.content["floor"] = {k: s.mean for k, s in self.scorer.floor(n).items()}
        scores = self.content.setdefault("scores", {})
        left = [cell for cell in cells if cell.name not in scores]
        total = sum(costs[cell.name]["calls"] for cell in left) * len(self.settings["seeds"])
        # counted in network evaluations, to which the time is about proportional
        with tqdm(total=round(total), unit=f" NFE x {n:,} images", disable=None) as bar:
            for cell in left:
                bar.set_description(cell.name)
                by_seed = []
                for seed in self.settings["seeds"]:
                    samples = self._sample(cell, n, seed)
                    score = self.scorer(samples.images, samples.asked)
                    by_seed.append({"seed": seed} | score.scores)
                    bar.update(round(costs[cell.name]["calls"]))
                scores[cell.name] = by_seed
                self._write(cells)

    def results(self, cells: Sequence[SamplerSetting]) -> list[SamplerResult]:
        """Return the results of the settings that are scored so far."""
        costs, scores = self.content["costs"], self.content.get("scores", {})
        return SamplerResult.of_cells(
            [
                (cell, costs[cell.name]["calls"], costs[cell.name]["milliseconds"], scores[name])
                for cell in cells
                if (name := cell.name) in scores
            ],
            self.settings.get("metric", FID),
        )

    def _sample(self, cell: SamplerSetting, num_samples: int, seed: int) -> SampleSet:
        return draw_set(
            self.run,
            cell.sampler,
            self.conditioning,
            num_samples=num_samples,
            seed=seed,
            batch_size=self.settings["batch_size"],
        )

    def _write(self, cells: Sequence[SamplerSetting]) -> None:
        write_json(self.out / NAME, self.content)
        write_csv(self.results(cells), self.content["skipped"], self.out / "tradeoff.csv")


def _names(given: Any) -> list[str] | None:
    if given is None:
        return None
    return [str(name) for name in (given if isinstance(given, list) else [given])]


def _numbers_of_steps(given: Any) -> list[int]:
    numbers = given if isinstance(given, list) else [given]
    if not numbers or any(type(n) is not int or n < 1 for n in numbers):
        raise UserError(
            f"num_steps={given}: expected whole numbers of at least 1, for example "
            "num_steps=5,10,20"
        )
    return sorted(set(numbers))


def _opened(out: str | None, parent: Path, content: dict[str, Any]) -> tuple[Path, dict[str, Any]]:
    """Return the output folder and the record: an earlier record in `out` to resume, or `content`.

    Raises UserError for an earlier record that is damaged or has other settings.
    """
    begun = Path(out).expanduser() / NAME if out else None
    if begun is None or not begun.is_file():
        return results_folder(out, parent), content
    try:
        earlier = json.loads(begun.read_text())
        same = earlier["settings"] == json.loads(json.dumps(content["settings"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{begun} is damaged: type out=<new folder>") from error
    if not same:
        raise UserError(
            f"out={out} holds a comparison with other settings: type out=<new folder>, or the "
            "settings of that comparison to resume it"
        )
    return begun.parent.absolute(), earlier
