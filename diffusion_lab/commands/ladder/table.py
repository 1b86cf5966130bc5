"""Results of a ladder: summary, tests and table, one row for each rung."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from diffusion_lab.commands.ladder.rungs import Rung
from diffusion_lab.evaluation.score import METRICS, bounds_of
from diffusion_lab.evaluation.statistics import (
    Difference,
    Summary,
    holm,
    paired,
    summary,
)
from diffusion_lab.system.atomic import replacing

HEADLINE = "fid"
SHOWN = ("fid", "kid", "precision", "recall", "coverage", "confidence")
"""Metrics of the printed table; ladder.csv and ladder.json hold all."""
ALPHA = 0.05


@dataclass
class Scored:
    """Scores and costs of one finished training."""

    seed: int
    scores: dict[str, float]
    num_calls: float
    """NFE: network evaluations for one image."""
    parameters: int
    train_seconds: float
    sample_seconds: float


@dataclass
class RungResult:
    """Results of one configuration of a ladder (a rung), over its training seeds."""

    rung: Rung
    runs: list[Scored]
    changed: dict[str, tuple[Any, Any]]
    """Settings that differ from the rung before: key -> both values."""
    summary: dict[str, Summary]
    difference: Difference | None = None
    """Difference of FID to the rung before, paired by seed; None for the lowest rung."""
    p_holm: float | None = None
    """p-value of the difference, Holm-corrected for all comparisons of the ladder."""
    verdict: str = ""

    def mean(self, what: str) -> float | None:
        """Return the mean over the seeds of a numeric field of Scored; None without seeds."""
        values = [float(getattr(run, what)) for run in self.runs]
        return sum(values) / len(values) if values else None


def summarise_rungs(
    rungs: Sequence[Rung],
    scored: Mapping[int, Sequence[Scored]],
    changed: Sequence[dict[str, tuple[Any, Any]]],
) -> list[RungResult]:
    """Summarise each rung over its seeds and compare its FID with the FID of the rung before.

    The test is a t-test paired by seed, because a seed gives all rungs the same initial weights,
    order of images and initial noise. Holm's correction keeps the probability of any false verdict
    in the ladder at or below 5 %.

    Args:
        rungs: the rungs, lowest first.
        scored: number of a rung -> its finished trainings.
        changed: for each rung the settings that differ from the rung before, {} for the first.

    """
    results = []
    for rung, keys in zip(rungs, changed, strict=True):
        runs = sorted(scored.get(rung.number, ()), key=lambda run: run.seed)
        names = [name for name in METRICS if runs and all(name in r.scores for r in runs)]
        sums = {
            name: summary([run.scores[name] for run in runs], bounds_of(name)) for name in names
        }
        results.append(RungResult(rung, runs, keys, sums))
    tested: list[tuple[RungResult, Difference, float]] = []
    for before, result in pairwise(results):
        old = {run.seed: run.scores for run in before.runs}
        pairs = [(r.scores[HEADLINE], old[r.seed][HEADLINE]) for r in result.runs if r.seed in old]
        if not pairs:
            result.verdict = "not measured"
            continue
        difference = paired([new for new, _ in pairs], [was for _, was in pairs])
        result.difference = difference
        if difference.p_value is None:
            result.verdict = "not tested: one seed"
        elif difference.low == difference.high and difference.difference:
            result.verdict = "not tested: no spread over seeds"
        else:
            tested.append((result, difference, difference.p_value))
    adjusted = holm([p for *_, p in tested])
    for (result, difference, _), p in zip(tested, adjusted, strict=True):
        result.p_holm = p
        better = difference.difference < 0  # lower FID is better
        word = "better" if better else "worse"
        result.verdict = word if p < ALPHA else "no significant difference"
    return results


def rows(results: Sequence[RungResult]) -> list[dict[str, Any]]:
    """Return the rows of ladder.csv: column -> value."""
    table = []
    for result in results:
        difference = result.difference
        row: dict[str, Any] = {
            "rung": result.rung.number,
            "name": result.rung.name,
            "change": result.rung.change,
            "overrides": " ".join(result.rung.own),
            "seeds": " ".join(str(run.seed) for run in result.runs),
            "parameters": result.mean("parameters"),
            "num_calls": result.mean("num_calls"),
            "train_seconds": result.mean("train_seconds"),
            "sample_seconds": result.mean("sample_seconds"),
        }
        for name in METRICS:
            score = result.summary.get(name)
            row[f"{name}_mean"] = score and score.mean
            row[f"{name}_std"] = score and score.std
        for key in ("difference", "low", "high", "p_value"):
            row[f"{HEADLINE}_{key}"] = difference and getattr(difference, key)
        row[f"{HEADLINE}_p_holm"] = result.p_holm
        row["verdict"] = result.verdict
        table.append(row)
    return table


def write_csv(results: Sequence[RungResult], path: Path) -> None:
    """Write ladder.csv, with a row for each rung."""
    table = rows(results)
    with replacing(path) as part, part.open("w", newline="") as file:
        writer = csv.DictWriter(file, table[0])
        writer.writeheader()
        writer.writerows(table)


def as_json(results: Sequence[RungResult]) -> list[dict[str, Any]]:
    """Convert the results to plain dictionaries for ladder.json, one for each rung."""
    return [
        {
            "rung": result.rung.number,
            "name": result.rung.name,
            "change": result.rung.change,
            "overrides": list(result.rung.own),
            "changed": {k: {"from": a, "to": b} for k, (a, b) in result.changed.items()},
            "runs": [asdict(run) for run in result.runs],
            "summary": {name: asdict(score) for name, score in result.summary.items()},
            "fid_difference": None if result.difference is None else asdict(result.difference),
            "fid_p_holm": result.p_holm,
            "verdict": result.verdict,
        }
        for result in results
    ]


def lines(results: Sequence[RungResult], floor: Mapping[str, Summary]) -> list[str]:
    """Format the printed table of scores; the last row is `floor`, the real-data baseline."""
    wide = max(len(f"{r.rung.number} {r.rung.name}") for r in results)
    titles = (METRICS[name].title.removeprefix("classifier ") for name in SHOWN)
    head = " " * wide + "".join(f"{title:>18}" for title in titles) + "   FID minus rung before"
    table = [head]
    for result in results:
        cells = "".join(f"{_cell(result.summary.get(name)):>18}" for name in SHOWN)
        label = f"{result.rung.number} {result.rung.name}"
        table.append(f"{label:{wide}}{cells}   {_change(result)}".rstrip())
    cells = "".join(f"{_cell(floor.get(name)):>18}" for name in SHOWN)
    table.append(f"{'real images':{wide}}{cells}")
    return table


def _cell(score: Summary | None) -> str:
    if score is None:
        return "-"
    return f"{score.mean:.3g}" + ("" if score.std is None else f" ± {score.std:.2g}")


def _change(result: RungResult) -> str:
    difference = result.difference
    if difference is None:
        return result.verdict
    interval = ""
    if difference.low is not None:
        interval = f" [{difference.low:+.3g}, {difference.high:+.3g}]"
    return f"{difference.difference:+.3g}{interval} {result.verdict}"
