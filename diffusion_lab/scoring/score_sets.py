"""Score sets of samples and average over seeds."""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from diffusion_lab import figures
from diffusion_lab.config.validate import check_seed
from diffusion_lab.errors import UserError
from diffusion_lab.evaluation.score import METRICS
from diffusion_lab.evaluation.scorer import ImageScorer, summaries
from diffusion_lab.evaluation.statistics import Summary
from diffusion_lab.sampling.draw import SHOWN
from diffusion_lab.scoring.draw_set import SampleSet
from diffusion_lab.system.git import git_commit
from diffusion_lab.system.output import write_json

log = logging.getLogger(__name__)

NAME = "evaluation.json"


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
            f"{METRICS[name].title:28} {score_text(score):>20} "
            f"{score_text(self.floor.get(name)):>20}"
            for name, score in self.summary.items()
        ]
        several = f"{len(seeds)} seeds" if len(seeds) > 1 else "1 seed, no spread"
        return [
            *([self.record["sampling"]] if "sampling" in self.record else []),
            f"extractor {extractor['name']} (sha256 {extractor['sha256'][:8]}), against "
            f"{reference['n']:,} test images of {reference['data']}, beside real training images",
            f"{'':28} {f'{n:,} images, {several}':>20} {f'{real:,} real ones':>20}",
            *rows,
        ]


def score_text(summary: Summary | None) -> str:
    """Write a mean with its interval, for a table."""
    if summary is None:
        return ""
    spread = "" if summary.std is None else f" ± {summary.std:.2g}"
    return f"{summary.mean:.4g}{spread}"


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
    scorer: ImageScorer, draws: Sequence[Callable[[], SampleSet]], about: dict[str, Any], out: Path
) -> Evaluation:
    """Score one set of images after the other, so that only one is held; write evaluation.json.

    Args:
        scorer: scores a set of images.
        draws: sample the sets, one for each of about["seeds"].
        about: the other entries of the record; "num_samples" is the size of the real sets too.
        out: an empty folder.

    """
    seconds = {"sampling": 0.0, "features": 0.0, "metrics": 0.0}
    scores: list[dict[str, Any]] = []
    calls: float | None = None
    for seed, make in zip(about["seeds"], draws, strict=True):
        drawn = make()
        judged = scorer(drawn.images, drawn.asked)
        scores.append({"seed": seed} | judged.scores)
        for part, took in (judged.seconds | {"sampling": drawn.seconds or 0.0}).items():
            seconds[part] += took
        if len(scores) == 1:
            figures.save_grid(drawn.images[:SHOWN].float() / 255, out / "samples.png")
            calls = drawn.num_calls
        log.info("seed %s: FID %.4g", seed, judged.scores.get("fid", float("nan")))
    began = time.perf_counter()
    floor = scorer.floor(about["num_samples"])
    seconds["floor"] = time.perf_counter() - began
    found = summaries([{k: v for k, v in of.items() if k != "seed"} for of in scores])
    images = about["num_samples"] * len(scores)
    record = about | {
        "num_calls": calls,
        "extractor": {"name": scorer.extractor.name, "sha256": scorer.extractor.sha256},
        "reference": {"data": scorer.reference.data, "n": len(scorer.reference.test)},
        "scores": scores,
        "summary": {name: asdict(of) for name, of in found.items()},
        "floor": {name: asdict(of) for name, of in floor.items()}
        | {"num_samples": min(about["num_samples"], len(scorer.reference.train))},
        "seconds": {part: round(took, 3) for part, took in seconds.items()},
        "milliseconds_per_image": 1000 * seconds["sampling"] / images if calls else None,
        "git_commit": git_commit(),
    }
    write_json(out / NAME, record)
    return Evaluation(record, found, floor, out)
