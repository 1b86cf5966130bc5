"""Printed tables of compare.py: means with intervals, differences with significance tests."""

from collections.abc import Sequence

from diffusion_lab.commands.compare.seed_groups import Group
from diffusion_lab.commands.compare.significance import Comparison
from diffusion_lab.evaluation.score import METRICS
from diffusion_lab.runs.objective import differing_parts, losses_do_not_compare
from diffusion_lab.system.tables import table_text


def result_lines(groups: Sequence[Group], comparisons: Sequence[Comparison]) -> list[str]:
    """Format the tables of means and of differences, followed by notes."""
    metrics = list(dict.fromkeys(c.metric for c in comparisons))
    cells = {(c.group, c.metric): c for c in comparisons}
    measured = groups[0].runs[0].evaluation
    different = different_objectives(groups)
    loss = "val/loss (not comparable)" if different else "val/loss"
    lines = [
        table_text(
            f"mean and 95 % interval; {measured['num_samples']:,} images per seed, NFE "
            f"{measured['num_calls']:g}, extractor {measured['extractor']['name']}",
            ["", "over", *(metric_title(m) for m in metrics), loss, "minutes", "parameters"],
            [
                [
                    group.name,
                    seeds_text(group),
                    *(_interval(cells[group.name, metric]) for metric in metrics),
                    _number(group.recorded("metrics", "val/loss")),
                    _number(group.recorded("wall_seconds") / 60, "{:.1f}"),
                    _number(group.recorded("parameters"), "{:,.0f}"),
                ]
                for group in groups
            ],
        )
    ]
    if len(groups) > 1:
        tested = sum(c.p_holm is not None for c in comparisons)
        lines.append(
            table_text(
                f"difference to {groups[0].name} with an uncorrected 95 % interval; Welch's "
                f"t-test, p-values corrected for {tested} tests (Holm)",
                ["", "metric", "difference", "95 % interval", "p", "verdict"],
                [_row(c) for c in comparisons if c.difference is not None],
            )
        )
    if different:
        lines.append(losses_do_not_compare(different))
    lone = [group.name for group in groups if len(group.runs) == 1]
    if lone:
        lines.append(
            f"single training: {'; '.join(lone)}: the interval covers sampling seeds only; scores "
            "of trainings with other seeds may vary more"
        )
    lines += [
        f"{run.dir} has the status {run.record['status']}, not finished"
        for group in groups
        for run in group.runs
        if run.record.get("status", "finished") != "finished"
    ]
    if (count := len(groups[0].settings)) > 1:
        lines.append(f"the rows differ in {count} settings; comparison.json lists them")
    return lines


def different_objectives(groups: Sequence[Group]) -> list[str]:
    """List the parts of the objective in which runs differ; [] if their losses are comparable."""
    return differing_parts([run.config for group in groups for run in group.runs])


def metric_title(metric: str) -> str:
    """Return the name of a metric and its better direction: "fid (lower is better)"."""
    known = METRICS.get(metric)
    direction = {"lower": " (lower is better)", "higher": " (higher is better)"}
    return metric if known is None else metric + direction.get(known.better, "")


def seeds_text(group: Group) -> str:
    """Describe the seeds over which a row of the table averages: "3 training seeds"."""
    if len(group.runs) > 1:
        return f"{len(group.runs)} training seeds"
    count = len(group.runs[0].scores)
    return f"1 training, {count} sampling seed{'s' * (count > 1)}"


def _number(value: float | None, form: str = "{:.4g}") -> str:
    return "-" if value is None or value != value else form.format(value)


def _interval(comparison: Comparison) -> str:
    mean, low, high = (getattr(comparison.summary, key) for key in ("mean", "low", "high"))
    spread = "" if low is None else f" [{_number(low)}, {_number(high)}]"
    return f"{_number(mean)}{spread}"


def _row(comparison: Comparison) -> list[str]:
    difference = comparison.difference
    assert difference is not None
    low, high = difference.low, difference.high
    return [
        comparison.group,
        comparison.metric,
        _number(difference.difference, "{:+.4g}"),
        "-" if low is None else f"{_number(low, '{:+.4g}')} to {_number(high, '{:+.4g}')}",
        _number(comparison.p_holm, "{:.2g}"),
        comparison.verdict,
    ]
