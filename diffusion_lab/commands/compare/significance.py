"""Significance tests between groups of runs (Welch's t-test, Holm correction)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from diffusion_lab.commands.compare.seed_groups import Group
from diffusion_lab.evaluation.score import bounds_of
from diffusion_lab.evaluation.statistics import Difference, Summary, holm, summary, welch

SIGNIFICANCE = 0.05


@dataclass(frozen=True)
class Comparison:
    """One metric of one group of runs, compared with the baseline group."""

    group: str
    metric: str
    unit: str
    """The kind of seeds over which the values vary: "training seeds" or, for a single run,
    "sampling seeds".
    """
    values: list[float]
    summary: Summary
    difference: Difference | None
    """Difference to the baseline group; None for the baseline itself."""
    p_holm: float | None
    """p-value, Holm-corrected for all tests of the table; None if nothing was tested."""
    verdict: str


def compare_groups(groups: Sequence[Group], metrics: Sequence[str]) -> list[Comparison]:
    """Compare every metric of every group with the first group, the baseline.

    Two groups of several trainings are tested over their training seeds, two single trainings over
    their sampling seeds. A single training is never tested against several. Holm's correction
    covers all tests of this call.
    """
    baseline = groups[0]
    cells = [(metric, group) for metric in metrics for group in groups]
    differences: list[Difference | None] = []
    for metric, group in cells:
        if group is baseline:
            differences.append(None)
            continue
        difference = welch(group.values(metric), baseline.values(metric), bounds_of(metric))
        if group.unit != baseline.unit:  # a single training shows no spread
            difference = Difference(difference.difference, None, None, None)
        differences.append(difference)
    tested = {
        i: d.p_value
        for i, d in enumerate(differences)
        if d is not None and d.p_value is not None and _has_interval(d)
    }
    corrected = dict(zip(tested, holm(list(tested.values())), strict=True))
    return [
        Comparison(
            group.name,
            metric,
            group.unit,
            group.values(metric),
            summary(group.values(metric), bounds_of(metric)),
            differences[i],
            corrected.get(i),
            verdict(group, baseline, metric, differences[i], corrected.get(i)),
        )
        for i, (metric, group) in enumerate(cells)
    ]


def _has_interval(difference: Difference) -> bool:
    """Return True if the interval of the difference is known and wider than 0."""
    low, high = difference.low, difference.high
    return low is not None and high is not None and low < high


def verdict(
    group: Group,
    baseline: Group,
    metric: str,
    difference: Difference | None,
    p_holm: float | None,
) -> str:
    """Describe a difference: "higher", "lower", or the reason why it is neither of the two."""
    if difference is None:
        return "baseline"
    if math.isnan(difference.difference):
        return "not tested: a score is not finite"
    if group.unit != baseline.unit:
        return "not tested: one training against several"
    if min(len(group.values(metric)), len(baseline.values(metric))) < 2:
        return "not tested: one seed"
    if difference.low == difference.high and difference.difference:
        return "not tested: no spread over seeds"
    if p_holm is None or p_holm >= SIGNIFICANCE:
        return "no significant difference"
    word = "lower" if difference.difference < 0 else "higher"
    # sampling seeds do not show the spread between trainings
    return word if group.unit == "training seeds" else f"{word}, for these two trainings only"
