"""Score one set of samples per seed, average over seeds and write evaluation.json."""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from diffusion_lab.config.validate import check_seed
from diffusion_lab.errors import UserError
from diffusion_lab.evaluation.score import METRICS
from diffusion_lab.evaluation.scorer import Scorer, summaries
from diffusion_lab.evaluation.statistics import Summary
from diffusion_lab.sampling.draw import SHOWN
from diffusion_lab.sampling.progress import times
from diffusion_lab.scoring.draw_set import SampleSet
from diffusion_lab.system.git import git_commit
from diffusion_lab.system.output import write_json

log = logging.getLogger(__name__)

NAME = "evaluation.json"


@dataclass
class Evaluation:
    """Scores of a run's samples, and of real images as a baseline."""

    record: dict[str, Any]
    """The content of evaluation.json."""
    summary: dict[str, Summary]
    """Mean and spread over seeds, by metric."""
    floor: dict[str, Summary]
    """Real-data baseline: the same metrics for real training images."""
    out: Path
    """The folder with evaluation.json and samples.png."""
    against: str
    """Line for the head of the table: the features and the real data that scores refer to."""
    unit: str
    """Word for one sample, image or point."""

    @property
    def lines(self) -> list[str]:
        """The lines of the printed table."""
        n, seeds = self.record["num_samples"], self.record["seeds"]
        real = self.record["floor"]["num_samples"]
        rows = [
            f"{METRICS[name].title:28} {score_text(score):>20} "
            f"{score_text(self.floor.get(name)):>20}".rstrip()
            for name, score in self.summary.items()
        ]
        several = f"{len(seeds)} seeds" if len(seeds) > 1 else "1 seed, no spread"
        baseline = times(real, f"real {self.unit}") if real else ""
        return [
            *([self.record["sampling"]] if "sampling" in self.record else []),
            self.against,
            f"{'':28} {f'{times(n, self.unit)}, {several}':>20} {baseline:>20}".rstrip(),
            *rows,
            *self._against_the_card(),
        ]

    def _against_the_card(self) -> list[str]:
        """The lines of a table with the scores that a pipeline's model card claims, if any."""
        rows = [
            f"{METRICS[name].title:28} {claimed:20.4g} {self.summary[name].mean:20.4g} "
            f"{self.summary[name].mean - claimed:+20.4g}"
            for name, claimed in self.record.get("claimed", {}).items()
            if name in METRICS and name in self.summary
        ]
        head = f"{'':28} {'on the model card':>20} {'here':>20} {'difference':>20}"
        return [head, *rows] if rows else []


def score_text(summary: Summary | None) -> str:
    """Format a mean with its standard deviation for a table; empty for None."""
    if summary is None:
        return ""
    spread = "" if summary.std is None else f" ± {summary.std:.2g}"
    return f"{summary.mean:.4g}{spread}"


def read_seeds(given: Any) -> list[int]:
    """Return seeds 0 to n - 1 for a number n, or the given list; UserError for another value."""
    seeds = list(range(given)) if type(given) is int else given
    if not isinstance(seeds, list) or not seeds or not all(type(s) is int for s in seeds):
        raise UserError(
            f"seeds={given}: expected a number of seeds, for example seeds=3, or a list of seeds, "
            "for example seeds=[0,1,2]"
        )
    if len(set(seeds)) < len(seeds):
        raise UserError(f"seeds={given} repeats a seed: expected different seeds")
    for seed in seeds:
        check_seed(seed)
    return seeds


def score_sets(
    scorer: Scorer, draws: Sequence[Callable[[], SampleSet]], about: dict[str, Any], out: Path
) -> Evaluation:
    """Score sets of images, one at a time to save memory; write evaluation.json and samples.png.

    Args:
        scorer: scores a set of images.
        draws: functions that sample a set, one for each of about["seeds"].
        about: further entries of evaluation.json. about["num_samples"] is also the number of
            real images in each set for the baseline.
        out: an empty folder.

    """
    seconds = {"sampling": 0.0, "features": 0.0, "metrics": 0.0}
    scores: list[dict[str, Any]] = []
    calls: float | None = None
    for seed, make in zip(about["seeds"], draws, strict=True):
        samples = make()
        score = scorer(samples.images, samples.asked)
        scores.append({"seed": seed} | score.scores)
        for part, took in (score.seconds | {"sampling": samples.seconds or 0.0}).items():
            seconds[part] += took
        if len(scores) == 1:
            scorer.write_samples(samples.images, out / "samples.png", SHOWN)
            calls = samples.num_calls
        title, value = METRICS[scorer.primary].title, score.scores.get(scorer.primary)
        log.info("seed %s: %s %.4g", seed, title, float("nan") if value is None else value)
    began = time.perf_counter()
    floor = scorer.floor(about["num_samples"])
    seconds["floor"] = time.perf_counter() - began
    summary = summaries([{k: v for k, v in of.items() if k != "seed"} for of in scores])
    images = about["num_samples"] * len(scores)
    record = about | {
        "num_calls": calls,
        **scorer.about(),
        "scores": scores,
        "summary": {name: asdict(of) for name, of in summary.items()},
        "floor": {name: asdict(of) for name, of in floor.items()}
        | {"num_samples": min(about["num_samples"], scorer.num_train)},
        "seconds": {part: round(took, 3) for part, took in seconds.items()},
        "milliseconds_per_image": 1000 * seconds["sampling"] / images if calls else None,
        "git_commit": git_commit(),
    }
    write_json(out / NAME, record)
    return Evaluation(record, summary, floor, out, scorer.against, scorer.unit)
