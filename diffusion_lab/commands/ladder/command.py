"""scripts/ladder.py: train and score configurations that each add one change."""

import gc
import logging
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import torch
from omegaconf import DictConfig, OmegaConf

from diffusion_lab import figures
from diffusion_lab.commands.ladder.figure import LadderRow, ladder_figure
from diffusion_lab.commands.ladder.rungs import Rung, check_rungs, differences, read_rungs, seeded
from diffusion_lab.commands.ladder.table import (
    HEADLINE,
    RungResult,
    Scored,
    as_json,
    lines,
    summarise_rungs,
    write_csv,
)
from diffusion_lab.commands.ladder.time_estimate import Estimate
from diffusion_lab.commands.ladder.training_runs import RungRun, choose_ladder_scorer
from diffusion_lab.config.error_message import one_line
from diffusion_lab.config.schema import LadderConfig
from diffusion_lab.config.validate import validate
from diffusion_lab.errors import UserError
from diffusion_lab.evaluation.scorer import ImageScorer
from diffusion_lab.evaluation.statistics import Summary
from diffusion_lab.scoring.score_sets import read_seeds
from diffusion_lab.system.git import git_commit
from diffusion_lab.system.lock import NAME as LOCK
from diffusion_lab.system.lock import locked
from diffusion_lab.system.output import write_json

log = logging.getLogger(__name__)


@dataclass
class Ladder:
    """Results of scripts/ladder.py: scores of configurations that each add one change."""

    results: list[RungResult]
    floor: dict[str, Summary]
    """Real-data baseline: the scores of the same number of real images."""
    errors: list[str]
    """One line for each failed training."""
    out: Path
    lines: list[str] = field(default_factory=list)


def ladder(cfg: DictConfig) -> Ladder:
    """Train, score and compare the configurations of a ladder; write ladder.csv, .json and .png.

    Finished trainings in `out` are reused and interrupted ones are resumed. A training that fails
    is reported and does not stop the others. Raises UserError for a mistake in the configuration,
    before any training.
    """
    validate(cfg, LadderConfig)
    plain = cast(dict[str, Any], OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True))
    seeds = read_seeds(plain["seeds"])
    rungs = read_rungs(plain["ladder"], plain["words"])
    out = _folder(plain["out"], plain["paths"]["log_dir"])
    configs = [rung.config(plain["paths"]) for rung in rungs]
    check_rungs(rungs, configs)
    runs = [
        RungRun(rung, seed, folder, seeded(cfg, seed, folder), plain["trust"])
        for seed in seeds  # the outer loop, so that the first seeds are complete on all rungs
        for rung, cfg in zip(rungs, configs, strict=True)
        for folder in [out / f"rung_{rung.number}" / f"seed_{seed}"]
    ]
    for run in runs:
        run.check()
    scorer = choose_ladder_scorer(
        plain["extractor"], configs[0], plain["paths"]["data_dir"], plain["trust"]
    )
    features = scorer.extractor.num_features
    if plain["num_samples"] <= features:
        raise UserError(
            f"num_samples={plain['num_samples']}: expected more than {features}, because FID needs "
            f"more images than the {features} features of extractor {scorer.extractor.name}"
        )
    with locked(out):
        return _train_and_score(rungs, runs, scorer, plain, out)


def _train_and_score(
    rungs: Sequence[Rung],
    runs: Sequence[RungRun],
    scorer: ImageScorer,
    plain: dict[str, Any],
    out: Path,
) -> Ladder:
    began = time.perf_counter()
    estimate = Estimate(runs[: len(rungs)], scorer, plain["num_samples"], plain["batch_size"])
    floor = scorer.floor(plain["num_samples"])
    todo = [run for run in runs if not run.trained]
    seeds = len({run.seed for run in runs})
    _say(
        f"{len(rungs)} rungs x {seeds} seed{'s' * (seeds > 1)}: {len(todo)} of {len(runs)} "
        "trainings to do, about "
        f"{_duration(estimate.left(runs))} (estimated from a few timed steps)"
    )
    scored: dict[int, list[Scored]] = {}
    errors: list[str] = []
    for done, run in enumerate(runs, 1):
        started, had_begun, was_trained = time.perf_counter(), bool(run.record()), run.trained
        try:
            if not was_trained:
                run.train()
            record = run.score(scorer, plain["num_samples"], plain["batch_size"])
        except Exception as error:
            line = one_line(error)
            if line is None:  # an unexpected error: keep its traceback
                log.error("%s", run.title, exc_info=True)
            errors.append(f"{run.title} failed: {line or f'{type(error).__name__}: {error}'}")
            _say(errors[-1])
            continue
        finally:
            _free_memory()
        took = time.perf_counter() - started
        if not had_begun:
            estimate.note(run, took)
        own = run.record()
        [scores] = [{k: v for k, v in s.items() if k != "seed"} for s in record["scores"]]
        scored.setdefault(run.rung.number, []).append(
            Scored(
                run.seed,
                scores,
                record["num_calls"],
                own["parameters"],
                own["wall_seconds"],
                record["seconds"]["sampling"],
            )
        )
        how = "already trained" if was_trained else f"{took:.0f} s"
        _say(
            f"{run.title}: FID {scores[HEADLINE]:.4g}, {how}; {done} of {len(runs)} done, about "
            f"{_duration(estimate.left(runs[done:]))} left"
        )
    if not scored:
        raise UserError(f"no training of the ladder succeeded: {errors[0]}")
    configs = [run.config for run in runs[: len(rungs)]]
    changed = [{}, *(differences(a, b) for a, b in pairwise(configs))]
    results = summarise_rungs(rungs, scored, changed)
    finished = Ladder(results, floor, errors, out)
    finished.lines = [*lines(results, floor), *_notes(scorer, plain, seeds), *errors]
    write_csv(results, out / "ladder.csv")
    figures.save_figure(_figure(results, runs, floor, plain, seeds), out / "ladder.png")
    write_json(
        out / "ladder.json",
        {
            "command": plain,
            "extractor": {"name": scorer.extractor.name, "sha256": scorer.extractor.sha256},
            "rungs": as_json(results),
            "floor": {name: vars(baseline) for name, baseline in floor.items()},
            "errors": errors,
            "seconds": round(time.perf_counter() - began, 3),
            "threads": torch.get_num_threads(),
            "git_commit": git_commit(),
        },
    )
    return finished


def _figure(
    results: Sequence[RungResult],
    runs: Sequence[RungRun],
    floor: dict[str, Summary],
    plain: dict[str, Any],
    seeds: int,
) -> Any:
    shown: list[LadderRow] = []
    for result in results:
        images = None
        if result.runs:  # samples of the first seed, the same on every rung that has that seed
            first = next(
                run for run in runs if run.rung is result.rung and run.seed == result.runs[0].seed
            )
            images = first.samples().float() / 255
        fid = result.summary.get(HEADLINE)
        interval = None if fid is None or fid.low is None else (fid.low, fid.high)
        values = [run.scores[HEADLINE] for run in result.runs]
        name = f"{result.rung.number} {result.rung.name}"
        shown.append(LadderRow(name, values, cast(Any, interval), images))
    title = f"FID of {plain['num_samples']:,} samples; {seeds} training seed{'s' * (seeds > 1)}" + (
        ", mean and 95 % interval" if seeds > 1 else ""
    )
    return ladder_figure(shown, floor[HEADLINE].mean, title=title)


def _notes(scorer: ImageScorer, plain: dict[str, Any], seeds: int) -> list[str]:
    return [
        f"mean ± standard deviation over {seeds} training seed{'s' * (seeds > 1)}, "
        f"{plain['num_samples']:,} samples each; extractor {scorer.extractor.name} (sha256 "
        f"{scorer.extractor.sha256[:8]}), against {len(scorer.reference.test):,} test images; "
        "differences of FID are paired by seed, with 95 % intervals; verdicts at the 5 % level "
        "after Holm's correction"
    ]


def _folder(out: str | None, log_dir: str) -> Path:
    """Return the output folder, without creating it.

    Raises UserError for a file, and for a folder with files that no ladder writes.
    """
    name = f"{time.strftime('%Y-%m-%d_%H-%M-%S')}_{secrets.token_hex(3)}"
    folder = (Path(out).expanduser() if out else Path(log_dir) / "ladders" / name).absolute()
    if folder.exists() and not folder.is_dir():
        raise UserError(f"out={out} is a file: expected a new folder, or the folder of a ladder")
    entries = [p.name for p in folder.iterdir()] if folder.is_dir() else []
    for entry in entries:
        if entry != LOCK and not entry.startswith(("rung_", "ladder.")):
            raise UserError(
                f"out={out} holds {entry}, which is not part of a ladder: type out=<new "
                "folder>, or out=<folder of a ladder> to resume that ladder"
            )
    return folder


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return str(timedelta(minutes=round(seconds / 60)))[:-3] + " h:min"


def _say(line: str) -> None:
    print(line, flush=True)


def _free_memory() -> None:
    """Free the memory of the last training before the next one starts in this process."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
