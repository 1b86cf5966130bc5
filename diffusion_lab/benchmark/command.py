"""Run the measurements named in `parts=`; write benchmark.json and a figure of the scaling."""

import gc
import logging
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import torch
from omegaconf import DictConfig, OmegaConf

from diffusion_lab import figures
from diffusion_lab.benchmark.figure import Growth, scaling_figure
from diffusion_lab.benchmark.machine import machine, matmul_rate
from diffusion_lab.benchmark.parts.data_loading import data_path
from diffusion_lab.benchmark.parts.memory import memory
from diffusion_lab.benchmark.parts.pictures import pictures
from diffusion_lab.benchmark.parts.sampling import fast_sampling, sampling
from diffusion_lab.benchmark.parts.scaling import Curve, scaling
from diffusion_lab.benchmark.parts.startup import start_up
from diffusion_lab.benchmark.parts.time_to_fid import time_to_fid
from diffusion_lab.benchmark.parts.trainer_overhead import overhead
from diffusion_lab.benchmark.parts.training import BASIC_UNET, UNET2D, training
from diffusion_lab.benchmark.settings import Settings
from diffusion_lab.benchmark.table import Row, table
from diffusion_lab.config.compose import compose_config
from diffusion_lab.config.schema import BenchmarkConfig
from diffusion_lab.config.validate import validate
from diffusion_lab.data.folder import find_data_dir, is_named
from diffusion_lab.data.mnist.files import SIDE, SOURCES
from diffusion_lab.errors import UserError, unknown_name
from diffusion_lab.runs.load import load_run
from diffusion_lab.system.device import choose_device
from diffusion_lab.system.git import git_commit
from diffusion_lab.system.output import results_folder, write_json
from diffusion_lab.system.precision import check_precision
from diffusion_lab.training.components import quieten_lightning

log = logging.getLogger(__name__)

NAME = "benchmark.json"
FIGURE = "scaling.png"
PICTURES = "pictures"
SCALING = "scaling"
TIME_TO_FID = "time_to_fid"
MATMUL_SECONDS = 2.0

_ROWS: dict[str, Callable[[Settings, float], list[Row]]] = {
    "data": lambda settings, _: data_path(settings),
    "basic_unet": lambda settings, rate: training(BASIC_UNET, settings, rate),
    "unet2d": lambda settings, rate: training(UNET2D, settings, rate),
    "overhead": lambda settings, _: overhead(settings),
    "sampling": lambda settings, _: sampling(settings),
    "fast_sampling": lambda settings, _: fast_sampling(settings),
    TIME_TO_FID: lambda settings, _: time_to_fid(settings),
    "start_up": lambda settings, _: start_up(settings),
    "memory": lambda settings, _: memory(settings),
}
PARTS = (*_ROWS, PICTURES, SCALING)


@dataclass
class Benchmark:
    """Results of the benchmark command: measured rows, scaling curves and the JSON record."""

    rows: list[Row]
    curves: list[Curve]
    record: dict[str, Any]
    """The content of benchmark.json."""
    out: Path
    """The folder with benchmark.json and, if scaling was measured, scaling.png."""
    notes: list[str] = field(default_factory=list)

    @property
    def lines(self) -> list[str]:
        """Lines to print: the table, the notes and the scaling exponents."""
        rows = table(self.rows) if self.rows else []
        return [*rows, *self.notes, *(curve.line for curve in self.curves)]


def benchmark(cfg: DictConfig) -> Benchmark:
    """Run the measurements named in `cfg.parts`; report missed targets without raising an error.

    Raises UserError for a mistake in the configuration, before any measurement. Exceptions of a
    failing measurement are not caught.
    """
    validate(cfg, BenchmarkConfig)
    parts = _parts(cfg)
    if not 0 < cfg.seconds < float("inf"):
        raise UserError(f"seconds={cfg.seconds}: expected a number above 0")
    if (cfg.data.channels, cfg.data.image_size) != (1, SIDE):
        raise UserError(
            f"data.channels={cfg.data.channels} data.image_size={cfg.data.image_size}: expected "
            f"data.channels=1 data.image_size={SIDE}, because the baseline trains on such images"
        )
    check_precision(cfg.precision)
    if cfg.run is not None:
        if "fast_sampling" not in parts:
            raise UserError(
                "run= is used only by the measurement fast_sampling: add fast_sampling to parts=, "
                "or leave out run="
            )
        load_run(cfg.run)
    compose_config(cfg.words)
    if cfg.threads is not None:
        torch.set_num_threads(cfg.threads)
    quieten_lightning()
    device = choose_device(cfg.accelerator)
    out = results_folder(cfg.out, Path(cfg.paths.log_dir) / "benchmarks")
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as scratch, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Lightning's advice does not apply to short trainings
        gc.freeze()  # exclude the loaded modules from every garbage collection
        try:
            return _measure(cfg, parts, device, Path(scratch), out, began)
        finally:
            gc.unfreeze()


def _measure(
    cfg: DictConfig,
    parts: list[str],
    device: torch.device,
    scratch: Path,
    out: Path,
    began: float,
) -> Benchmark:
    sizes = ("source", "val_size", "num_images")
    data_words = [f"data.{key}={cfg.data[key]}" for key in sizes if cfg.data[key] is not None]
    # absolute, because some parts run in processes with another working directory
    where = f"paths.data_dir={find_data_dir(cfg.paths.data_dir).absolute()}"
    settings = Settings(
        repeats=cfg.repeats,
        seconds=cfg.seconds,
        batch_size=cfg.batch_size,
        num_samples=cfg.num_samples,
        run=None if cfg.run is None else str(Path(cfg.run).expanduser().absolute()),
        device=device,
        accelerator="gpu" if device.type == "cuda" else device.type,
        threads=torch.get_num_threads(),
        precision=cfg.precision,
        data=cfg.data.name,
        training_words=tuple(cfg.words),
        words=(*([where] if is_named(cfg.paths.data_dir) else []), *data_words),
        scratch=scratch,
    )
    data = settings.datamodule().provenance
    if cfg.data.source == "auto" and data["source"] in SOURCES:  # look for the data only once
        resolved = (where, f"data.source={data['source']}")
        settings = replace(settings, words=(*settings.words, *resolved))
    about = machine(device)
    rate = matmul_rate(device, min(MATMUL_SECONDS, cfg.seconds))
    rows: list[Row] = []
    curves: list[Curve] = []
    seconds: dict[str, float] = {}
    largest = cfg.largest or float("inf")
    for number, part in enumerate(parts, 1):
        print(f"{number} of {len(parts)}: {part}", flush=True)
        start = time.perf_counter()
        if part == SCALING:
            curves = scaling(settings, largest)
        elif part == PICTURES:
            rows += pictures(settings, largest)
        else:
            rows += _ROWS[part](settings, rate)
        seconds[part] = round(time.perf_counter() - start, 3)
    again = matmul_rate(device, min(MATMUL_SECONDS, cfg.seconds))
    record = {
        "command": cast(dict[str, Any], OmegaConf.to_container(cfg, resolve=True)),
        "machine": about | {"matmul_gflops": rate / 1e9, "matmul_gflops_afterwards": again / 1e9},
        "data": data,
        "rows": [row.as_json() for row in rows],
        "scaling": [curve.as_json() for curve in curves],
        "seconds": seconds | {"all": round(time.perf_counter() - began, 3)},
        "git_commit": git_commit(),
    }
    write_json(out / NAME, record)
    if curves:
        figures.save_figure(_figure(curves), out / FIGURE)
    return Benchmark(rows, curves, record, out, _notes(record, rows, curves))


def _parts(cfg: DictConfig) -> list[str]:
    given = OmegaConf.to_container(cfg)["parts"]  # type: ignore[index,call-overload]
    if given is None:
        return [part for part in PARTS if part != TIME_TO_FID or cfg.data.name == "mnist"]
    parts = [given] if isinstance(given, str) else given
    if not isinstance(parts, list) or not parts:
        raise UserError(f"parts={given}: expected a list of one or more of {', '.join(PARTS)}")
    for part in parts:
        if part not in PARTS:
            raise UserError(unknown_name("parts", part, PARTS))
    if TIME_TO_FID in parts and cfg.data.name != "mnist":
        raise UserError(
            f"parts={TIME_TO_FID} needs MNIST: leave {TIME_TO_FID} out of parts=, or leave out "
            f"data={cfg.data.name}"
        )
    return [part for part in PARTS if part in parts]


def _notes(record: dict[str, Any], rows: list[Row], curves: list[Curve]) -> list[str]:
    about, data = record["machine"], record["data"]
    before, after = about["matmul_gflops"], about["matmul_gflops_afterwards"]
    threads = about["threads"]
    notes = [
        f"{about['device']}, {threads} thread{'s' * (threads > 1)} of {about['cores']} cores; "
        f"matrix products {before:.4g} GFLOP/s, afterwards {after:.4g}; data "
        f"{data['dataset']} ({data['source']}); medians and [min..max] over the repeats, baseline "
        "and ours measured alternately"
    ]
    for row in rows:
        utilization = row.details.get("our_share_of_matmul_rate")
        if utilization is not None:
            theirs = row.details["baseline_share_of_matmul_rate"]
            notes.append(
                f"{row.what}: {row.details['flops_of_a_step'] / 1e9:.3g} GFLOP per step, at "
                f"{100 * utilization:.0f} % of the rate of float32 matrix products (the tutorial's "
                f"loop: {100 * theirs:.0f} %)"
            )
        if "calls" in row.details:
            notes.append(
                f"{row.what}: {row.details['network']}; {row.details['baseline_steps_timed']} of "
                f"the pipeline's {row.details['baseline_steps_it_stands_for']:,} steps were timed, "
                "and the measured time was scaled"
            )
    for curve in curves:
        if curve.arithmetic is not None:
            utilizations = [
                100 * operations / seconds / before / 1e9
                for operations, seconds in zip(curve.arithmetic, curve.seconds, strict=True)
            ]
            notes.append(
                f"{curve.name}, the fast network: {min(utilizations):.0f} to "
                f"{max(utilizations):.0f} % of the rate of matrix products"
            )
    return notes


def _figure(curves: list[Curve]) -> Any:
    return scaling_figure(
        [Growth(c.name, c.xlabel, c.x, c.seconds, c.exponent, c.arithmetic) for c in curves]
    )
