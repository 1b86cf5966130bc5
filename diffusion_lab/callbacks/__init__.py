"""Lightning callbacks: monitoring, samples and checkpoints during training."""

from diffusion_lab.callbacks.checkpoints.best import EarlyStopping, ModelCheckpoint
from diffusion_lab.callbacks.checkpoints.last import LastCheckpoint
from diffusion_lab.callbacks.checkpoints.random_state import RandomState
from diffusion_lab.callbacks.checkpoints.resume_state import ResumeState
from diffusion_lab.callbacks.checkpoints.save_config import SaveConfig
from diffusion_lab.callbacks.checkpoints.unlogged_metrics import PendingMetrics
from diffusion_lab.callbacks.compile_network import CompiledNetwork
from diffusion_lab.callbacks.ema import EMA
from diffusion_lab.callbacks.finite_loss import FiniteLoss
from diffusion_lab.callbacks.monitoring.loss_by_log_snr import LossByNoise
from diffusion_lab.callbacks.monitoring.loss_history import LossHistory
from diffusion_lab.callbacks.monitoring.progress_bar import progress_bar
from diffusion_lab.callbacks.monitoring.step_log import StepLog
from diffusion_lab.callbacks.monitoring.throughput import Throughput
from diffusion_lab.callbacks.post_hoc_ema import PostHocEMA
from diffusion_lab.callbacks.samples.fid import FID, FIDEstimate
from diffusion_lab.callbacks.samples.figures import Figures
from diffusion_lab.callbacks.samples.sample_grid import SampleGrid
from diffusion_lab.callbacks.time_limit import TimeLimit
from diffusion_lab.callbacks.validate_at_end import ValidateAtTheEnd

__all__ = [
    "EMA",
    "FID",
    "CompiledNetwork",
    "EarlyStopping",
    "FIDEstimate",
    "Figures",
    "FiniteLoss",
    "LastCheckpoint",
    "LossByNoise",
    "LossHistory",
    "ModelCheckpoint",
    "PendingMetrics",
    "PostHocEMA",
    "RandomState",
    "ResumeState",
    "SampleGrid",
    "SaveConfig",
    "StepLog",
    "Throughput",
    "TimeLimit",
    "ValidateAtTheEnd",
    "progress_bar",
]
