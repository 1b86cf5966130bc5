"""Runs side by side: what each reached over its seeds, and which differences are ones."""

import csv
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf

from diffusion_lab import figures
from diffusion_lab.commands.compare.evaluated_runs import (
    EvaluatedRun,
    check_comparable,
    find_runs,
    read_run,
)
from diffusion_lab.commands.compare.figure import Panel, Spread, loss_curves, spread_panels
from diffusion_lab.commands.compare.seed_groups import Group, group_runs
from diffusion_lab.commands.compare.significance import Comparison, compare_groups
from diffusion_lab.config.groups import sampler_config, sampler_word
from diffusion_lab.config.schema import CompareConfig
from diffusion_lab.config.validate import validate
from diffusion_lab.errors import UserError
from diffusion_lab.evaluation.score import METRICS
from diffusion_lab.runs.checkpoint import read_checkpoint
from diffusion_lab.runs.objective import differing_parts, losses_do_not_compare
from diffusion_lab.sampling.progress import counted, planned_work, times
from diffusion_lab.system.atomic import replacing
from diffusion_lab.system.output import results_folder, write_json
from diffusion_lab.system.tables import table_text

_COLUMNS = (
    *("group", "metric", "over", "n", "mean", "std", "low", "high"),
    *("difference", "difference_low", "difference_high", "p", "p_holm", "verdict"),
)


@dataclass
class Compared:
    """What became of a comparison."""

    groups: list[Group]
    comparisons: list[Comparison]
    out: Path
    lines: tuple[str, ...]
    """What is printed."""


def compare(cfg: DictConfig) -> Compared:
    """Hold runs against each other; leave comparison.csv, .json and .png and losses.png.

    Raises UserError for a mistake in the configuration, or runs that cannot be compared, before
    anything is written.
    """
    validate(cfg, CompareConfig)
    if OmegaConf.is_missing(cfg, "runs") or not cfg.runs:
        raise UserError(
            "runs= is missing: give run folders, runs=logs/runs/a,logs/runs/b, or a sweep folder"
        )
    sampler = _asked_sampler(cfg)
    folders = find_runs(_list(cfg, "runs"))
    if len(folders) < 2:
        raise UserError(f"runs={cfg.runs} is one run: give two or more to compare")
    with planned_work(f"reading the evaluations of {times(len(folders), 'run')}", len(folders)):
        runs = [read_run(folder, sampler, cfg.num_samples) for folder in counted(folders)]
    check_comparable(runs)
    metrics = _metrics(_list(cfg, "metrics"), runs)
    groups = group_runs(runs)
    baseline = _baseline(cfg.baseline, groups)
    groups = [baseline, *(group for group in groups if group is not baseline)]
    comparisons = compare_groups(groups, metrics)
    out = results_folder(cfg.out, Path("logs") / "comparisons")

    _write_csv(comparisons, out / "comparison.csv")
    write_json(out / "comparison.json", _content(groups, comparisons))
    _draw(groups, comparisons, metrics, out)
    return Compared(groups, comparisons, out, tuple(_lines(groups, comparisons)))


def _asked_sampler(cfg: DictConfig) -> str | None:
    """The word typed; what an evaluation's steps were is seen in its network calls."""
    if cfg.sampler is None:
        return None
    node = cast(dict[str, Any], OmegaConf.to_container(cfg.sampler))
    word = sampler_word(node)
    if node != sampler_config(word):
        raise UserError(f"sampler= chooses by the word alone: type sampler={word} and no more")
    return word


def _list(cfg: DictConfig, name: str) -> list[str]:
    given = cfg[name]
    return [str(item) for item in (given if OmegaConf.is_list(given) else [given])]


def _metrics(asked: list[str], runs: Sequence[EvaluatedRun]) -> list[str]:
    """Those asked for, which every run must have."""
    there = [key for key in runs[0].scores[0] if key != "seed"]
    for run in runs:
        for scores in run.scores:
            there = [key for key in there if key in scores]
    for metric in asked:
        if metric not in there:
            raise UserError(
                f"metrics={metric} is in not every evaluation: choose from {', '.join(there)}"
            )
    if not asked:
        raise UserError(f"metrics=[] is empty: choose from {', '.join(there)}")
    return list(dict.fromkeys(asked))


def _baseline(named: str | None, groups: Sequence[Group]) -> Group:
    """The group of a run folder, or of a row's name; the first by default."""
    if named is None:
        return groups[0]
    folder = Path(named).expanduser().resolve()
    for group in groups:
        if named == group.name or folder in [run.dir.resolve() for run in group.runs]:
            return group
    raise UserError(
        f"baseline={named} is none of the runs: give one of their folders, "
        f"baseline={groups[0].runs[0].dir}"
    )


def _lines(groups: Sequence[Group], comparisons: Sequence[Comparison]) -> list[str]:
    metrics = list(dict.fromkeys(c.metric for c in comparisons))
    cells = {(c.group, c.metric): c for c in comparisons}
    measured = groups[0].runs[0].evaluation
    different = _different_objectives(groups)
    loss = "val/loss (does not compare)" if different else "val/loss"
    lines = [
        table_text(
            f"mean and 95 % interval; {measured['num_samples']:,} images a seed, "
            f"{measured['num_calls']:g} network calls an image, {measured['extractor']['name']}",
            ["", "over", *(_title(m) for m in metrics), loss, "minutes", "parameters"],
            [
                [
                    group.name,
                    _over(group),
                    *(_interval(cells[group.name, metric]) for metric in metrics),
                    _figure(group.recorded("metrics", "val/loss")),
                    _figure(group.recorded("wall_seconds") / 60, "{:.1f}"),
                    _figure(group.recorded("parameters"), "{:,.0f}"),
                ]
                for group in groups
            ],
        )
    ]
    if len(groups) > 1:
        tested = sum(c.p_holm is not None for c in comparisons)
        lines.append(
            table_text(
                f"difference to {groups[0].name}, 95 % interval of each by itself; Welch's test, "
                f"p corrected for {tested} tests (Holm)",
                ["", "metric", "difference", "95 % interval", "p", "verdict"],
                [_row(c) for c in comparisons if c.difference is not None],
            )
        )
    if different:
        lines.append(losses_do_not_compare(different))
    lone = [group.name for group in groups if len(group.runs) == 1]
    if lone:
        lines.append(
            f"one training: {'; '.join(lone)}: the spread is that of sampling alone, another "
            "training seed may give more"
        )
    lines += [
        f"{run.dir} is {run.record['status']}, not finished"
        for group in groups
        for run in group.runs
        if run.record.get("status", "finished") != "finished"
    ]
    if (count := len(groups[0].settings)) > 1:
        lines.append(f"the rows differ in {count} settings; comparison.json lists them")
    return lines


def _different_objectives(groups: Sequence[Group]) -> list[str]:
    return differing_parts([run.config for group in groups for run in group.runs])


def _title(metric: str) -> str:
    known = METRICS.get(metric)
    way = {"lower": " (less is better)", "higher": " (more is better)"}
    return metric if known is None else metric + way.get(known.better, "")


def _over(group: Group) -> str:
    if len(group.runs) > 1:
        return f"{len(group.runs)} training seeds"
    count = len(group.runs[0].scores)
    return f"1 training, {count} sampling seed{'s' * (count > 1)}"


def _figure(value: float | None, form: str = "{:.4g}") -> str:
    return "-" if value is None or value != value else form.format(value)


def _interval(comparison: Comparison) -> str:
    mean, low, high = (getattr(comparison.summary, key) for key in ("mean", "low", "high"))
    spread = "" if low is None else f" [{_figure(low)}, {_figure(high)}]"
    return f"{_figure(mean)}{spread}"


def _row(comparison: Comparison) -> list[str]:
    difference = comparison.difference
    assert difference is not None
    low, high = difference.low, difference.high
    return [
        comparison.group,
        comparison.metric,
        _figure(difference.difference, "{:+.4g}"),
        "-" if low is None else f"{_figure(low, '{:+.4g}')} to {_figure(high, '{:+.4g}')}",
        _figure(comparison.p_holm, "{:.2g}"),
        comparison.verdict,
    ]


def _write_csv(comparisons: Sequence[Comparison], path: Path) -> None:
    """A row a group and metric."""
    with replacing(path) as part, part.open("w", newline="") as file:
        rows = csv.DictWriter(file, _COLUMNS)
        rows.writeheader()
        for c in comparisons:
            row = {"group": c.group, "metric": c.metric, "over": c.unit, "p_holm": c.p_holm}
            row |= asdict(c.summary)
            if c.difference is not None:
                d = c.difference
                row |= {"difference": d.difference, "difference_low": d.low}
                row |= {"difference_high": d.high, "p": d.p_value}
            rows.writerow(row | {"verdict": c.verdict})


def _content(groups: Sequence[Group], comparisons: Sequence[Comparison]) -> dict[str, Any]:
    measured = groups[0].runs[0].evaluation
    return {
        "extractor": measured["extractor"],
        "reference": measured["reference"],
        "num_samples": measured["num_samples"],
        "num_calls": measured["num_calls"],
        "losses_differ_in": _different_objectives(groups),
        "groups": [
            {
                "name": group.name,
                "unit": group.unit,
                "runs": [
                    {
                        "run": str(run.dir),
                        "seed": run.config["seed"],
                        "status": run.record.get("status"),
                        "evaluation": str(run.file),
                    }
                    for run in group.runs
                ],
                "val/loss": group.recorded("metrics", "val/loss"),
                "wall_seconds": group.recorded("wall_seconds"),
                "parameters": group.recorded("parameters"),
                "settings": group.settings,
            }
            for group in groups
        ],
        "comparisons": [asdict(c) for c in comparisons],
    }


def _draw(
    groups: Sequence[Group], comparisons: Sequence[Comparison], metrics: list[str], out: Path
) -> None:
    panels = []
    for metric in metrics:
        rows = [
            Spread(c.values, c.summary.mean, c.summary.low, c.summary.high)
            for c in comparisons
            if c.metric == metric
        ]
        floor = groups[0].runs[0].evaluation.get("floor", {}).get(metric, {}).get("mean")
        panels.append(Panel(_title(metric), rows, floor))
    names = [f"{group.name}\n{_over(group)}" for group in groups]
    figures.save_figure(spread_panels(names, panels), out / "comparison.png")
    curves = {group.name: [_losses(run) for run in group.runs] for group in groups}
    if any(len(losses) or points for runs in curves.values() for losses, points in runs):
        figures.save_figure(
            loss_curves(curves, "losses of different objectives do not compare"),
            out / "losses.png",
        )


def _losses(run: EvaluatedRun) -> tuple[list[float], list[tuple[float, float]]]:
    """The loss of every step, and (step, validation loss) as far as they were kept."""
    losses: list[float] = []
    if (path := run.dir / "losses.csv").is_file():
        with path.open() as file:
            losses = [float(row["loss"]) for row in csv.DictReader(file)]
    checkpoint = run.dir / "checkpoints" / "last.ckpt"
    if checkpoint.is_file():
        with suppress(UserError):  # a damaged one: the validations are a few dots of a picture
            history = read_checkpoint(checkpoint).get("callbacks", {}).get("LossHistory", {})
            if history.get("validations"):
                return losses, history["validations"]
    step, loss = run.record.get("steps"), run.record.get("metrics", {}).get("val/loss")
    return losses, [] if step is None or loss is None else [(step, loss)]
