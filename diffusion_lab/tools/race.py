"""FID against training time for evaluated runs, as a table and a figure."""

import argparse
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from diffusion_lab import figures
from diffusion_lab.cli.errors import cli_errors
from diffusion_lab.commands.compare.evaluated_runs import EvaluatedRun, find_runs, read_runs
from diffusion_lab.commands.compare.seed_groups import Group, group_runs
from diffusion_lab.errors import UserError
from diffusion_lab.system.output import check_picture
from diffusion_lab.tools.race_figure import Entry, race_figure


@dataclass(frozen=True)
class Race:
    """Evaluated runs in groups, one group per recipe, in the order of each recipe's first run.

    Relative FIDs are ratios to the FID of the first group.
    """

    groups: tuple[Group, ...]

    def lines(self) -> list[str]:
        """Return the lines of a Markdown table with one row per recipe."""
        reference = statistics.fmean(self.groups[0].values("fid"))
        rows = [
            "| recipe | trainings | seconds | NFE | FID | relative FID | recall | "
            "coverage | confidence |",
            "|---|---|---|---|---|---|---|---|---|",
        ]
        for group in self.groups:
            fid = group.values("fid")
            cells = [
                recipe(group.runs[0]),
                str(len(group.runs)),
                f"{group.recorded('wall_seconds'):.0f}",
                f"{group.runs[0].evaluation['num_calls']:g}",
                _spread(fid),
                _relative(statistics.fmean(fid) / reference),
                *(_spread(group.values(name)) for name in ("recall", "coverage", "confidence")),
            ]
            rows.append(f"| {' | '.join(cells)} |")
        return rows

    def save(self, out: Path) -> Path:
        """Write the figure of FID over training time to `out`; return its path."""
        entries = [
            Entry(recipe(g.runs[0]), g.recorded("wall_seconds"), tuple(g.values("fid")))
            for g in self.groups
        ]
        (floor,) = {g.runs[0].evaluation["floor"]["fid"]["mean"] for g in self.groups}
        return figures.save_figure(race_figure(entries, floor=floor), out)


def recipe(run: EvaluatedRun) -> str:
    """Return the name of a run's experiment, else of its model, else of its folder."""
    experiment = run.words.get("experiment", "None")
    return run.words.get("model", run.dir.name) if experiment == "None" else experiment


def race(named: Sequence[str]) -> Race:
    """Read the newest evaluation of each run; `named` holds run folders, patterns or sweep folders.

    Raises UserError if a run has no evaluation, or if the feature extractor, the real images or the
    number of samples differ between runs.
    """
    runs = read_runs(find_runs(named))
    for what in ("extractor", "reference", "num_samples"):
        different = {str(run.evaluation[what]) for run in runs}
        if len(different) > 1:
            raise UserError(
                f"the runs' evaluations differ in {what} ({' and '.join(sorted(different))}): "
                f"expected one {what}; evaluate the runs again with the same settings"
            )
    return Race(tuple(group_runs(runs)))


def _relative(ratio: float) -> str:
    """Format a ratio of at most 1 as a fraction such as 1/13, and a larger one as a decimal."""
    return f"1/{1 / ratio:.3g}" if ratio <= 1 else f"{ratio:.3g}"


def _spread(values: Sequence[float]) -> str:
    mean = f"{statistics.fmean(values):.4g}"
    return f"{mean} ± {statistics.stdev(values):.2g}" if len(values) > 1 else mean


def main() -> None:
    """Plot FID over training time, and print a table with FIDs relative to the first recipe's."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("runs", nargs="+")
    arguments = parser.parse_args()
    with cli_errors():
        check_picture(arguments.out)
        result = race(arguments.runs)
        print("\n".join(result.lines()))
        print(result.save(arguments.out).absolute())
