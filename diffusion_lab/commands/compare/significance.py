"""Which differences between groups of runs are ones, in numbers and in words."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from diffusion_lab.commands.compare.seed_groups import Group
from diffusion_lab.evaluation.score import bounds_of
from diffusion_lab.evaluation.statistics import Difference, Summary, holm, summary, welch

SIGNIFICANCE = 0.05


@dataclass(frozen=True)
class Comparison:
    """A metric of a group, and how it stands to the baseline's."""

    group: str
    metric: str
    unit: str
    """What the values are over: "training seeds", or "sampling seeds" of a lone run."""
    values: list[float]
    summary: Summary
    difference: Difference | None
    """None for the baseline itself."""
    p_holm: float | None
    """Corrected over all tests of the table; None where nothing was tested."""
    verdict: str


def compare_groups(groups: Sequence[Group], metrics: Sequence[str]) -> list[Comparison]:
    """Every metric of every group, the first of which is the baseline.

    Only like is tested against like: several trainings against several, or the sampling seeds of
    one training against those of another. Holm's correction is over all tests that come back.
    """
    baseline = groups[0]
    cells = [(metric, group) for metric in metrics for group in groups]
    differences: list[Difference | None] = []
    for metric, group in cells:
        if group is baseline:
            differences.append(None)
            continue
        found = welch(group.values(metric), baseline.values(metric), bounds_of(metric))
        if group.unit != baseline.unit:  # the spread of one side is not known
            found = Difference(found.difference, None, None, None)
        differences.append(found)
    tested = {
        i: d.p_value
        for i, d in enumerate(differences)
        if d is not None and d.p_value is not None and _spread(d)
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


def _spread(difference: Difference) -> bool:
    """Whether an interval is known; not so where no value differs from another, or one is NaN."""
    low, high = difference.low, difference.high
    return low is not None and high is not None and low < high


def verdict(
    group: Group,
    baseline: Group,
    metric: str,
    difference: Difference | None,
    p_holm: float | None,
) -> str:
    """A difference in words."""
    if difference is None:
        return "baseline"
    if math.isnan(difference.difference):
        return "no number: cannot say"
    if group.unit != baseline.unit:
        return "one training against several: cannot say"
    if min(len(group.values(metric)), len(baseline.values(metric))) < 2:
        return "one seed: cannot say"
    if difference.low == difference.high and difference.difference:
        return "no spread over seeds: cannot say"
    if p_holm is None or p_holm >= SIGNIFICANCE:
        return "no difference shown"
    word = "lower" if difference.difference < 0 else "higher"
    # sampling seeds say nothing of what another training would give
    return word if group.unit == "training seeds" else f"{word}, of these two trainings"
