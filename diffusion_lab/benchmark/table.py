"""Rows of the benchmark's table: measurement, baseline, ratio and target."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from diffusion_lab.benchmark.timing import Comparison


@dataclass(frozen=True)
class Target:
    """Target for the ratio ours / baseline, and optionally a limit for our value."""

    ratio: float
    at_least: bool
    """True for rates (higher is better), False for times and memory (lower is better)."""
    limit: float | None = None
    """Upper limit for our value, in the unit of the row; None for no limit."""

    def verdict(self, ratio: float, ours: float) -> str:
        """Return "met" or "missed by ..."; "unclear, ..." if noise made a value negative.

        `ratio` is ours / baseline, and `ours` is our value in the unit of the row.
        """
        if ratio <= 0 or ours <= 0:  # differences of times may be negative
            return "unclear, the noise is larger"
        missed = []
        off = (self.ratio - ratio if self.at_least else ratio - self.ratio) / self.ratio
        if not off <= 0:  # NaN misses too
            missed.append(f"by {off:.2g}" if abs(off) >= 1 else f"by {100 * off:.2g} %")
        if self.limit is not None and not ours < self.limit:
            missed.append(f"{ours:.3g} is not below {self.limit:g}")
        return f"missed {', '.join(missed)}" if missed else "met"

    def words(self, unit: str) -> str:
        """Return the target as text, such as ">= 1.5 x"."""
        below = "" if self.limit is None else f", < {self.limit:g} {unit}"
        return f"{'>=' if self.at_least else '<='} {self.ratio:g} x{below}"


@dataclass(frozen=True)
class Row:
    """One row of the benchmark's table: a measurement, its baseline and its target."""

    part: str
    what: str
    against: str
    unit: str
    comparison: Comparison
    target: Target
    details: dict[str, Any] = field(default_factory=dict)
    """Further numbers and texts about the measurement, for benchmark.json."""

    @property
    def verdict(self) -> str:
        """Verdict on the medians: "met", "missed by ..." or "unclear, ..."."""
        return self.target.verdict(self.comparison.ratio, self.comparison.medians[1])

    def as_json(self) -> dict[str, Any]:
        """Return the row as a dictionary for benchmark.json."""
        baseline, ours = self.comparison.medians
        low, high = self.comparison.spread
        return {
            "part": self.part,
            "what": self.what,
            "against": self.against,
            "unit": self.unit,
            "baseline": baseline,
            "ours": ours,
            "ratio": self.comparison.ratio,
            "ratio_min": low,
            "ratio_max": high,
            "target": self.target.words(self.unit),
            "met": self.verdict == "met",
            "verdict": self.verdict,
            "baseline_values": list(self.comparison.baseline),
            "our_values": list(self.comparison.ours),
            "details": self.details,
        }


def table(rows: Sequence[Row]) -> list[str]:
    """Return the rows as lines of a text table with a header and aligned columns."""
    head = ("what", "baseline", "ours", "", "ratio [min..max]", "target", "")
    cells = [head]
    for row in rows:
        baseline, ours = row.comparison.medians
        low, high = row.comparison.spread
        cells.append(
            (
                row.what,
                number(baseline),
                number(ours),
                row.unit,
                f"{number(row.comparison.ratio)} [{number(low)}..{number(high)}]",
                row.target.words(row.unit),
                row.verdict,
            )
        )
    widths = [max(len(line[i]) for line in cells) for i in range(len(head))]
    right = {1, 2}
    return [
        "  ".join(
            text.rjust(w) if i in right else text.ljust(w)
            for i, (text, w) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in cells
    ]


def number(value: float) -> str:
    """Format a number with three significant digits, or without decimals from 100 upwards."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"
