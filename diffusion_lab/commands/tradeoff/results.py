"""Results of a comparison of samplers: printed table, CSV and figure."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffusion_lab import figures
from diffusion_lab.commands.tradeoff.figure import Point, tradeoff_figure
from diffusion_lab.commands.tradeoff.sampler_grid import SamplerSetting
from diffusion_lab.evaluation.pareto import pareto_front
from diffusion_lab.evaluation.score import METRICS, bounds_of
from diffusion_lab.evaluation.statistics import Summary, summary
from diffusion_lab.scoring.score_sets import score_text
from diffusion_lab.system.atomic import replacing
from diffusion_lab.system.tables import table_text

_COLUMNS = ("sampler", "spacing", "num_steps", "calls", "milliseconds", "seeds")
_LAST = ("front_calls", "front_milliseconds", "skipped")


@dataclass(frozen=True)
class SamplerResult:
    """Cost and quality of a sampler setting, and its place on the Pareto fronts."""

    cell: SamplerSetting
    calls: float
    """NFE: network evaluations for one image."""
    milliseconds: float
    """Time for one image of a batch."""
    scores: dict[str, Summary]
    metric: str
    """Name of the metric of the fronts, "fid" for images."""
    front_calls: bool
    """True on the Pareto front of NFE and the metric."""
    front_milliseconds: bool
    """True on the Pareto front of time and the metric."""

    @property
    def score(self) -> Summary:
        """The metric of the fronts."""
        return self.scores[self.metric]

    @classmethod
    def of_cells(
        cls,
        cells: Sequence[tuple[SamplerSetting, float, float, Sequence[Mapping[str, float]]]],
        metric: str,
    ) -> "list[SamplerResult]":
        """Build results from tuples (setting, NFE, milliseconds per image, scores of each seed).

        The Pareto fronts are those of cost and `metric`, of which lower is better.
        """
        summaries = [
            {k: summary([s[k] for s in scores], bounds_of(k)) for k in scores[0] if k != "seed"}
            for *_, scores in cells
        ]
        quality = [of[metric].mean for of in summaries]
        by_calls = pareto_front([calls for _, calls, _, _ in cells], quality)
        by_time = pareto_front([milliseconds for _, _, milliseconds, _ in cells], quality)
        fronts = list(zip(by_calls.tolist(), by_time.tolist(), strict=True))
        return [
            cls(cell, calls, milliseconds, summaries[i], metric, *fronts[i])
            for i, (cell, calls, milliseconds, _) in enumerate(cells)
        ]


def write_csv(results: Sequence[SamplerResult], skipped: Mapping[str, str], path: Path) -> None:
    """Write a CSV with a row for each setting; rows of incompatible settings give the reason."""
    metrics = list(results[0].scores) if results else []
    spread = [column for metric in metrics for column in (metric, f"{metric}_std")]
    with replacing(path) as part, part.open("w", newline="") as file:
        rows = csv.DictWriter(file, [*_COLUMNS, *spread, *_LAST])
        rows.writeheader()
        for of in results:
            row: dict[str, Any] = {
                "sampler": of.cell.word,
                "spacing": of.cell.spacing,
                "num_steps": of.cell.num_steps,
                "calls": of.calls,
                "milliseconds": of.milliseconds,
                "seeds": of.score.n,
                "front_calls": of.front_calls,
                "front_milliseconds": of.front_milliseconds,
            }
            for metric, score in of.scores.items():
                row |= {metric: score.mean, f"{metric}_std": score.std}
            rows.writerow(row)
        for name, reason in skipped.items():
            word, *spacing, steps = name.split()
            row = {"sampler": word, "spacing": "".join(spacing), "num_steps": steps}
            rows.writerow(row | {"skipped": reason})


def draw_tradeoff(results: Sequence[SamplerResult], floor: Mapping[str, float], path: Path) -> None:
    """Plot the metric of the fronts over NFE and over time per image, and save the figure."""
    curves: dict[str, list[Point]] = {}
    for of in results:
        front = (of.front_calls, of.front_milliseconds)
        point = Point(of.calls, of.milliseconds, of.score.mean, front)
        curves.setdefault(of.cell.curve, []).append(point)
    metric = results[0].metric
    figures.save_figure(tradeoff_figure(curves, METRICS[metric].title, floor.get(metric)), path)


def lines(results: Sequence[SamplerResult], content: Mapping[str, Any]) -> list[str]:
    """Format the printed table and its notes; `content` is the content of tradeoff.json."""
    settings = content["settings"]
    several, metric = len(settings["seeds"]) > 1, results[0].metric
    title = METRICS[metric].title
    table = table_text(
        f"{settings['num_samples']:,} images per seed, {len(settings['seeds'])} sampling "
        f"seed{'s' * several}, {settings['extractor']['name']}, "
        f"guidance_scale={settings['guidance_scale']:g}",
        ["sampler", "steps", "NFE", "ms per image", title, "Pareto front"],
        [
            [
                of.cell.curve,
                str(of.cell.num_steps),
                f"{of.calls:g}",
                f"{of.milliseconds:.3g}",
                score_text(of.score),
                ", ".join(
                    name
                    for name, on in (("NFE", of.front_calls), ("ms", of.front_milliseconds))
                    if on
                ),
            ]
            for of in results
        ],
    )
    reasons: dict[str, list[str]] = {}
    for name, reason in content["skipped"].items():
        reasons.setdefault(reason, []).append(name)
    real = content["floor"].get(metric)
    return [
        table,
        f"real training images: {title} "
        + (f"{real:.4g}" if real is not None else "unknown, because there are too few of them"),
        f"time per image in a batch of {settings['batch_size']} on {settings['device']}: median "
        "of 3 rounds over all samplers in turn, after one for warm-up",
        "the Pareto fronts use mean scores: settings closer than their spread may swap places"
        if several
        else "one seed per setting: the spread is unknown, type seeds=3 to measure it",
        *(f"incompatible: {', '.join(names)}: {reason}" for reason, names in reasons.items()),
    ]
