"""Scores of the images that a run draws, beside those of real images."""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from omegaconf import DictConfig, OmegaConf

from diffusion_lab import figures
from diffusion_lab.diffusion.guidance import EVERYWHERE
from diffusion_lab.errors import UserError
from diffusion_lab.evaluation.extractor import load_extractor
from diffusion_lab.evaluation.reference import load_reference
from diffusion_lab.evaluation.score import METRICS
from diffusion_lab.evaluation.statistics import Summary
from diffusion_lab.modules.guide import Guide
from diffusion_lab.run.check import check_keys, check_seed
from diffusion_lab.run.choice import choose_judge
from diffusion_lab.run.draw import SHOWN
from diffusion_lab.run.drawn import Drawn, draw_set
from diffusion_lab.run.image_files import read_samples
from diffusion_lab.run.judge import Judge, summaries
from diffusion_lab.run.load import load_run
from diffusion_lab.run.options import sampler_word
from diffusion_lab.run.plan import planned_work, say, times
from diffusion_lab.run.precision import check_precision, chosen_precision
from diffusion_lab.run.record import git_commit, write_json
from diffusion_lab.run.results import choose_device, results_folder
from diffusion_lab.run.sample import chosen_sampler, read_guides
from diffusion_lab.run.sampling_line import planned
from diffusion_lab.schema import EvaluateConfig

log = logging.getLogger(__name__)
NAME = "evaluation.json"
NUM_SAMPLES = 10_000
SEEDS = 3
_OF_DRAWING = (
    "checkpoint",
    "weights",
    "trust",
    "labels",
    "guidance_scale",
    "guidance_interval",
    "autoguidance",
    "seeds",
    "batch_size",
    "accelerator",
    "precision",
)
"""What images that are drawn already have no use for."""


@dataclass
class Evaluation:
    """What was found."""

    record: dict[str, Any]
    """The content of evaluation.json."""
    summary: dict[str, Summary]
    floor: dict[str, Summary]
    out: Path
    """The folder with evaluation.json and samples.png."""

    @property
    def lines(self) -> list[str]:
        """The table that is printed."""
        n, seeds = self.record["num_samples"], self.record["seeds"]
        extractor, reference = self.record["extractor"], self.record["reference"]
        real = self.record["floor"]["num_samples"]
        rows = [
            f"{METRICS[name].title:28} {_figure(found):>20} {_figure(self.floor.get(name)):>20}"
            for name, found in self.summary.items()
        ]
        several = f"{len(seeds)} seeds" if len(seeds) > 1 else "1 seed, no spread"
        return [
            *([self.record["sampling"]] if "sampling" in self.record else []),
            f"extractor {extractor['name']} (sha256 {extractor['sha256'][:8]}), against "
            f"{reference['n']:,} test images of {reference['data']}, beside real training images",
            f"{'':28} {f'{n:,} images, {several}':>20} {f'{real:,} real ones':>20}",
            *rows,
        ]


def _figure(summary: Summary | None) -> str:
    if summary is None:
        return ""
    spread = "" if summary.std is None else f" ± {summary.std:.2g}"
    return f"{summary.mean:.4g}{spread}"


def evaluate(cfg: DictConfig) -> Evaluation:
    """Score the images of each seed, drawn or read; leave evaluation.json and samples.png.

    Raises UserError for a mistake in the configuration, before anything is drawn or written.
    """
    check_keys(cfg, EvaluateConfig)
    check_precision(cfg.precision)
    for name, least in (("num_samples", 2), ("batch_size", 1)):
        if cfg[name] is not None and cfg[name] < least:
            raise UserError(f"{name}={cfg[name]}: expected at least {least}")
    if bool(cfg.run) == bool(cfg.images):
        raise UserError(
            "give one of run=logs/runs/<name>, a run folder, and images=<samples.npz>, images "
            "that were drawn before"
        )
    return _drawn(cfg) if cfg.run else _read(cfg)


def _drawn(cfg: DictConfig) -> Evaluation:
    """Of a run."""
    plain = cast(dict[str, Any], OmegaConf.to_container(cfg, resolve=True))
    seeds = read_seeds(SEEDS if plain["seeds"] is None else plain["seeds"])
    n = NUM_SAMPLES if cfg.num_samples is None else cfg.num_samples
    run = load_run(cfg.run, cfg.checkpoint, cfg.weights, cfg.trust)
    config, sampler = chosen_sampler(run, cfg.sampler)
    guide = read_guides(cfg, run)[0]
    judge = choose_judge(cfg.extractor, run, cfg.paths.data_dir)
    device = choose_device(cfg.accelerator)
    run.module.to(device)
    if guide.weak is not None:
        guide.weak.to(device)
    out = results_folder(cfg.out, run.dir / "evaluation")
    about = {
        "sampling": planned(config, sampler, [guide], run.module, run.image_shape),
        "run": str(run.dir),
        "checkpoint": cfg.checkpoint,
        "weights": run.weights,
        "sampler": config,
        "labels": list(guide.labels),
        "guidance_scale": guide.guidance_scale,
        "guidance_interval": plain["guidance_interval"] or _interval(guide),
        "autoguidance": cfg.autoguidance,
        "num_samples": n,
        "seeds": seeds,
        "batch_size": cfg.batch_size,
        "device": str(device),
        "precision": chosen_precision(cfg.precision, device),
        "threads": torch.get_num_threads(),
    }
    draws = [
        partial(
            draw_set,
            run,
            sampler,
            guide,
            num_samples=n,
            seed=seed,
            batch_size=cfg.batch_size,
            precision=cfg.precision,
        )
        for seed in seeds
    ]
    line = (
        f"drawing {times(n, 'image')} for each of {times(len(seeds), 'seed')} by "
        f"{sampler_word(config)} in "
        f"{times(sampler.num_steps, 'step')}, then scoring them by {judge.extractor.name}"
    )
    with planned_work(line, len(seeds) * n * sampler.num_steps):
        return score_sets(judge, draws, about, out)


def _interval(guide: Guide) -> list[float] | None:
    """As it is recorded: None for all noise levels."""
    return None if guide.interval == EVERYWHERE else list(guide.interval)


def _read(cfg: DictConfig) -> Evaluation:
    """Of files: each stands for a seed."""
    plain = cast(dict[str, Any], OmegaConf.to_container(cfg, resolve=True))
    given = [name for name in _OF_DRAWING if plain[name] != getattr(EvaluateConfig(), name)]
    given += ["sampler"] if any(value is not None for value in plain["sampler"].values()) else []
    if given:
        raise UserError(f"{given[0]}= goes with run=: the images= are drawn already")
    if cfg.extractor is None:
        raise UserError("images= does not say of what: name the extractor, extractor=mnist_v1")
    files = [plain["images"]] if isinstance(plain["images"], str) else plain["images"]
    sets = [read_samples(file, cfg.num_samples) for file in files]
    if len({images.shape for images, _ in sets}) > 1 or len({a is None for _, a in sets}) > 1:
        shapes = [tuple(images.shape) for images, _ in sets]
        raise UserError(
            f"images= differ, {shapes}: expected as many of one size in each file, with labels in "
            "all or in none"
        )
    images = sets[0][0]
    if len(images) < 2:
        raise UserError(f"{files[0]} holds {len(images)} images: expected at least 2 to compare")
    extractor = load_extractor(cfg.extractor)
    for each, _ in sets:
        extractor.fit(each)  # or refuse them
    judge = Judge(extractor, load_reference(extractor))
    out = results_folder(cfg.out, Path(files[0]).expanduser().parent / "evaluation")
    about = {"images": files, "num_samples": len(images), "seeds": files}
    draws = [partial(Drawn, images, asked) for images, asked in sets]
    say(f"scoring {times(len(sets), 'set')} of {times(len(images), 'image')} by {extractor.name}")
    return score_sets(judge, draws, about, out)


def read_seeds(given: Any) -> list[int]:
    """So many seeds from 0 on, or those of a list; UserError for anything else."""
    seeds = list(range(given)) if type(given) is int else given
    if not isinstance(seeds, list) or not seeds or not all(type(s) is int for s in seeds):
        raise UserError(
            f"seeds={given}: expected a number of seeds, seeds=3, or a list of them, seeds=[0,1,2]"
        )
    if len(set(seeds)) < len(seeds):
        raise UserError(f"seeds={given}: the same seed twice draws the same images")
    for seed in seeds:
        check_seed(seed)
    return seeds


def score_sets(
    judge: Judge, draws: Sequence[Callable[[], Drawn]], about: dict[str, Any], out: Path
) -> Evaluation:
    """Score one set of images after the other, so that only one is held; write evaluation.json.

    Args:
        judge: scores.
        draws: make the sets, one for each of about["seeds"].
        about: what else the record says; its "num_samples" says how large the floor's sets are.
        out: an empty folder.

    """
    seconds = {"sampling": 0.0, "features": 0.0, "metrics": 0.0}
    scores: list[dict[str, Any]] = []
    calls: float | None = None
    for seed, make in zip(about["seeds"], draws, strict=True):
        drawn = make()
        judged = judge(drawn.images, drawn.asked)
        scores.append({"seed": seed} | judged.scores)
        for part, took in (judged.seconds | {"sampling": drawn.seconds or 0.0}).items():
            seconds[part] += took
        if len(scores) == 1:
            figures.save_grid(drawn.images[:SHOWN].float() / 255, out / "samples.png")
            calls = drawn.num_calls
        log.info("seed %s: FID %.4g", seed, judged.scores.get("fid", float("nan")))
    began = time.perf_counter()
    floor = judge.floor(about["num_samples"])
    seconds["floor"] = time.perf_counter() - began
    found = summaries([{k: v for k, v in of.items() if k != "seed"} for of in scores])
    images = about["num_samples"] * len(scores)
    record = about | {
        "num_calls": calls,
        "extractor": {"name": judge.extractor.name, "sha256": judge.extractor.sha256},
        "reference": {"data": judge.reference.data, "n": len(judge.reference.test)},
        "scores": scores,
        "summary": {name: asdict(of) for name, of in found.items()},
        "floor": {name: asdict(of) for name, of in floor.items()}
        | {"num_samples": min(about["num_samples"], len(judge.reference.train))},
        "seconds": {part: round(took, 3) for part, took in seconds.items()},
        "milliseconds_per_image": 1000 * seconds["sampling"] / images if calls else None,
        "git_commit": git_commit(),
    }
    write_json(out / NAME, record)
    return Evaluation(record, found, floor, out)
