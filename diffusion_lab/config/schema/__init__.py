"""The types of the configuration: a key that is not here, in YAML or typed, is an error.

Groups whose keys are the arguments of the class they name (`_target_`) are open here; they are
held against that class by `run.check`. Imports neither torch nor lightning.
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
    """Make the schemas of a command known to Hydra under the names that its YAML files begin with.

    Only these: Hydra copies all it knows once for every group that `--help` lists. The saved
    configuration of a run needs none.
    """
    for name, node in _SCHEMAS.get(command, {}).items():
        ConfigStore.instance().store(name=name, node=node)
