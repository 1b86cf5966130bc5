"""What the trainings of a ladder gave, a row a rung."""

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
"""The metrics that are printed; all of them are in ladder.csv and ladder.json."""
ALPHA = 0.05


@dataclass
class Scored:
    """One training that came to its end and was scored."""

    seed: int
    scores: dict[str, float]
    num_calls: float
    """Of the network, for an image."""
    parameters: int
    train_seconds: float
    sample_seconds: float


@dataclass
class RungResult:
    """A rung over its seeds."""

    rung: Rung
    runs: list[Scored]
    changed: dict[str, tuple[Any, Any]]
    """The keys of the configuration that are not as on the rung before, with both values."""
    summary: dict[str, Summary]
    difference: Difference | None = None
    """Of FID to the rung before, over the seeds that both have; None for the lowest rung."""
    p_holm: float | None = None
    """Its p-value, adjusted for all the ladder's comparisons."""
    verdict: str = ""

    def mean(self, what: str) -> float | None:
        """The mean of a field of Scored over the seeds."""
        values = [float(getattr(run, what)) for run in self.runs]
        return sum(values) / len(values) if values else None


def summarise_rungs(
    rungs: Sequence[Rung],
    scored: Mapping[int, Sequence[Scored]],
    changed: Sequence[dict[str, tuple[Any, Any]]],
) -> list[RungResult]:
    """Sum up the seeds of each rung and compare its FID with that of the rung before.

    The comparison is a paired t-test over the seeds that both have: a seed gives all rungs the same
    first weights, order of images and noise to start from. Verdicts hold together at the 5 % level
    (Holm).

    Args:
        rungs: from the lowest on.
        scored: by the rung's number, what there is of it.
        changed: what tells each from the rung before, none for the first.

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
        result.difference = found = paired([new for new, _ in pairs], [was for _, was in pairs])
        if found.p_value is None:
            result.verdict = "one seed, not known"
        elif found.low == found.high and found.difference:
            result.verdict = "no spread over seeds, not known"
        else:
            tested.append((result, found, found.p_value))
    adjusted = holm([p for *_, p in tested])
    for (result, found, _), p in zip(tested, adjusted, strict=True):
        result.p_holm = p
        better = found.difference < 0  # of FID less is better
        result.verdict = ("better" if better else "worse") if p < ALPHA else "no difference shown"
    return results


def rows(results: Sequence[RungResult]) -> list[dict[str, Any]]:
    """The rows of ladder.csv."""
    made = []
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
            found = result.summary.get(name)
            row[f"{name}_mean"] = found and found.mean
            row[f"{name}_std"] = found and found.std
        for key in ("difference", "low", "high", "p_value"):
            row[f"{HEADLINE}_{key}"] = difference and getattr(difference, key)
        row[f"{HEADLINE}_p_holm"] = result.p_holm
        row["verdict"] = result.verdict
        made.append(row)
    return made


def write_csv(results: Sequence[RungResult], path: Path) -> None:
    """Write ladder.csv."""
    made = rows(results)
    with replacing(path) as part, part.open("w", newline="") as file:
        writer = csv.DictWriter(file, made[0])
        writer.writeheader()
        writer.writerows(made)


def as_json(results: Sequence[RungResult]) -> list[dict[str, Any]]:
    """The rungs of ladder.json."""
    return [
        {
            "rung": result.rung.number,
            "name": result.rung.name,
            "change": result.rung.change,
            "overrides": list(result.rung.own),
            "changed": {k: {"from": a, "to": b} for k, (a, b) in result.changed.items()},
            "runs": [asdict(run) for run in result.runs],
            "summary": {name: asdict(found) for name, found in result.summary.items()},
            "fid_difference": None if result.difference is None else asdict(result.difference),
            "fid_p_holm": result.p_holm,
            "verdict": result.verdict,
        }
        for result in results
    ]


def lines(results: Sequence[RungResult], floor: Mapping[str, Summary]) -> list[str]:
    """The table as it is printed; the last line is that of real images."""
    wide = max(len(f"{r.rung.number} {r.rung.name}") for r in results)
    titles = (METRICS[name].title.removeprefix("classifier ") for name in SHOWN)
    head = " " * wide + "".join(f"{title:>18}" for title in titles) + "   FID to the one before"
    table = [head]
    for result in results:
        cells = "".join(f"{_cell(result.summary.get(name)):>18}" for name in SHOWN)
        label = f"{result.rung.number} {result.rung.name}"
        table.append(f"{label:{wide}}{cells}   {_change(result)}".rstrip())
    cells = "".join(f"{_cell(floor.get(name)):>18}" for name in SHOWN)
    table.append(f"{'real images':{wide}}{cells}")
    return table


def _cell(found: Summary | None) -> str:
    if found is None:
        return "-"
    return f"{found.mean:.3g}" + ("" if found.std is None else f" ± {found.std:.2g}")


def _change(result: RungResult) -> str:
    difference = result.difference
    if difference is None:
        return result.verdict
    interval = ""
    if difference.low is not None:
        interval = f" [{difference.low:+.3g}, {difference.high:+.3g}]"
    return f"{difference.difference:+.3g}{interval} {result.verdict}"
