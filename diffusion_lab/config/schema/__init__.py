"""Schemas of all commands: a key that a schema lacks is an error in YAML files and overrides.

Groups with a `_target_` accept any key here, because their keys are arguments of a class;
`config.validate` checks such keys against the signature of the class. Imports neither torch nor
lightning.
"""

from hydra.core.config_store import ConfigStore

from diffusion_lab.config.schema.benchmark import BenchmarkConfig
from diffusion_lab.config.schema.compare import CompareConfig, TradeoffConfig
from diffusion_lab.config.schema.evaluation import DiagnoseConfig, EvaluateConfig, LikelihoodConfig
from diffusion_lab.config.schema.ladder import LadderConfig
from diffusion_lab.config.schema.sample import (
    EditConfig,
    ExportConfig,
    ImageToImageConfig,
    InpaintConfig,
    InterpolateConfig,
    SampleConfig,
)
from diffusion_lab.config.schema.train import TrainConfig
from diffusion_lab.config.schema.train_extractor import TrainExtractorConfig

__all__ = [
    "BenchmarkConfig",
    "CompareConfig",
    "DiagnoseConfig",
    "EditConfig",
    "EvaluateConfig",
    "ExportConfig",
    "ImageToImageConfig",
    "InpaintConfig",
    "InterpolateConfig",
    "LadderConfig",
    "LikelihoodConfig",
    "SampleConfig",
    "TradeoffConfig",
    "TrainConfig",
    "TrainExtractorConfig",
]

_SCHEMAS: dict[str, dict[str, type]] = {
    "train": {"train_schema": TrainConfig},
    "sample": {"sample_schema": SampleConfig},
    "export": {"export_schema": ExportConfig},
    "compare": {"compare_schema": CompareConfig},
    "tradeoff": {"tradeoff_schema": TradeoffConfig},
    "edit": {
        "edit_schema": EditConfig,
        "inpaint_schema": InpaintConfig,
        "interpolate_schema": InterpolateConfig,
        "image_to_image_schema": ImageToImageConfig,
    },
    "evaluate": {"evaluate_schema": EvaluateConfig},
    "diagnose": {"diagnose_schema": DiagnoseConfig},
    "likelihood": {"likelihood_schema": LikelihoodConfig},
    "train_extractor": {"train_extractor_schema": TrainExtractorConfig},
    "benchmark": {"benchmark_schema": BenchmarkConfig},
    "ladder": {"ladder_schema": LadderConfig},
}


def register(command: str) -> None:
    """Store a command's schemas in Hydra, under the names in the defaults lists of its YAML files.

    Only one command's schemas are stored, because Hydra copies its whole store for every group
    that `--help` lists. A saved configuration of a run needs no schema.
    """
    for name, node in _SCHEMAS.get(command, {}).items():
        ConfigStore.instance().store(name=name, node=node)
