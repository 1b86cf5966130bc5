"""Compare evaluated runs: mean and confidence interval over seeds, and significance tests."""

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
    read_runs,
)
from diffusion_lab.commands.compare.figure import Panel, Spread, loss_curves, spread_panels
from diffusion_lab.commands.compare.seed_groups import Group, group_runs
from diffusion_lab.commands.compare.significance import Comparison, compare_groups
from diffusion_lab.commands.compare.table import (
    different_objectives,
    metric_title,
    result_lines,
    seeds_text,
)
from diffusion_lab.config.groups import sampler_config, sampler_word
from diffusion_lab.config.schema import CompareConfig
from diffusion_lab.config.validate import validate
from diffusion_lab.errors import UserError
from diffusion_lab.runs.checkpoint import read_checkpoint
from diffusion_lab.sampling.progress import counted, planned_work, times
from diffusion_lab.system.atomic import replacing
from diffusion_lab.system.output import results_folder, write_json

_DEFAULT = ("fid", "kid", "precision", "recall")
_COLUMNS = (
    *("group", "metric", "over", "n", "mean", "std", "low", "high"),
    *("difference", "difference_low", "difference_high", "p", "p_holm", "verdict"),
)


@dataclass
class Compared:
    """Result of compare.py: groups of runs, and their comparisons with the baseline group."""

    groups: list[Group]
    comparisons: list[Comparison]
    out: Path
    lines: tuple[str, ...]
    """The lines to print."""


def compare(cfg: DictConfig) -> Compared:
    """Compare the scores of evaluated runs; write comparison.csv, .json and .png, and losses.png.

    Raises UserError for a mistake in the configuration and for runs that cannot be compared,
    before anything is written.
    """
    validate(cfg, CompareConfig)
    if OmegaConf.is_missing(cfg, "runs") or not cfg.runs:
        raise UserError(
            "runs= is missing: type run folders, for example runs=logs/runs/a,logs/runs/b, or a "
            "sweep folder, runs=logs/sweeps/<name>"
        )
    sampler = _asked_sampler(cfg)
    folders = find_runs(_list(cfg, "runs"))
    if len(folders) < 2:
        raise UserError(
            f"runs={cfg.runs} is one run: expected at least two runs, for example "
            "runs=logs/runs/a,logs/runs/b"
        )
    with planned_work(f"reading the evaluations of {times(len(folders), 'run')}", len(folders)):
        runs = read_runs(counted(folders), sampler, cfg.num_samples)
    check_comparable(runs)
    metrics = _metrics(None if cfg.metrics is None else _list(cfg, "metrics"), runs)
    groups = group_runs(runs)
    baseline = _baseline(cfg.baseline, groups)
    groups = [baseline, *(group for group in groups if group is not baseline)]
    comparisons = compare_groups(groups, metrics)
    out = results_folder(cfg.out, Path("logs") / "comparisons")

    _write_csv(comparisons, out / "comparison.csv")
    write_json(out / "comparison.json", _content(groups, comparisons))
    _write_figures(groups, comparisons, metrics, out)
    return Compared(groups, comparisons, out, tuple(result_lines(groups, comparisons)))


def _asked_sampler(cfg: DictConfig) -> str | None:
    """Return the name of the sampler that sampler= gives; None without sampler=.

    Raises UserError for settings such as sampler.num_steps=, because only the name selects
    evaluations.
    """
    if cfg.sampler is None:
        return None
    node = cast(dict[str, Any], OmegaConf.to_container(cfg.sampler))
    name = sampler_word(node)
    if node != sampler_config(name):
        raise UserError(
            f"sampler= selects evaluations by the sampler's name only: type sampler={name} and "
            "leave out sampler.<option>="
        )
    return name


def _list(cfg: DictConfig, name: str) -> list[str]:
    given = cfg[name]
    return [str(item) for item in (given if OmegaConf.is_list(given) else [given])]


def _metrics(asked: list[str] | None, runs: Sequence[EvaluatedRun]) -> list[str]:
    """Return the metrics that metrics= names, without duplicates.

    None means the metrics of _DEFAULT, or all metrics if the evaluations have none of these. Raises
    UserError for a metric that an evaluation lacks, and for an empty list.
    """
    common = [key for key in runs[0].scores[0] if key != "seed"]
    for run in runs:
        for scores in run.scores:
            common = [key for key in common if key in scores]
    if asked is None:
        asked = list(_DEFAULT) if set(_DEFAULT) & set(common) else common
    for metric in asked:
        if metric not in common:
            raise UserError(
                f"metrics={metric} is missing from at least one evaluation: choose from "
                f"{', '.join(common)}"
            )
    if not asked:
        raise UserError(f"metrics=[] is empty: choose from {', '.join(common)}")
    return list(dict.fromkeys(asked))


def _baseline(named: str | None, groups: Sequence[Group]) -> Group:
    """Return the group that baseline= names by a run folder or by the group's name.

    Returns the first group without baseline=.
    """
    if named is None:
        return groups[0]
    folder = Path(named).expanduser().resolve()
    for group in groups:
        if named == group.name or folder in [run.dir.resolve() for run in group.runs]:
            return group
    raise UserError(
        f"baseline={named} is none of the compared runs: expected the folder of a compared run or "
        f"the name of a row, for example baseline={groups[0].runs[0].dir}"
    )


def _write_csv(comparisons: Sequence[Comparison], path: Path) -> None:
    """Write a CSV with one row for each group and metric."""
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
        "losses_differ_in": different_objectives(groups),
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


def _write_figures(
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
        panels.append(Panel(metric_title(metric), rows, floor))
    names = [f"{group.name}\n{seeds_text(group)}" for group in groups]
    figures.save_figure(spread_panels(names, panels), out / "comparison.png")
    curves = {group.name: [_losses(run) for run in group.runs] for group in groups}
    if any(len(losses) or points for runs in curves.values() for losses, points in runs):
        figures.save_figure(
            loss_curves(curves, "losses of different objectives are not comparable"),
            out / "losses.png",
        )


def _losses(run: EvaluatedRun) -> tuple[list[float], list[tuple[float, float]]]:
    """Return the training loss of every step, and the points (step, validation loss).

    Either list is empty if the run did not record it.
    """
    losses: list[float] = []
    if (path := run.dir / "losses.csv").is_file():
        with path.open() as file:
            losses = [float(row["loss"]) for row in csv.DictReader(file)]
    checkpoint = run.dir / "checkpoints" / "last.ckpt"
    if checkpoint.is_file():
        with suppress(UserError):  # a damaged checkpoint only leaves out dots of a figure
            history = read_checkpoint(checkpoint).get("callbacks", {}).get("LossHistory", {})
            if history.get("validations"):
                return losses, history["validations"]
    step, loss = run.record.get("steps"), run.record.get("metrics", {}).get("val/loss")
    return losses, [] if step is None or loss is None else [(step, loss)]
