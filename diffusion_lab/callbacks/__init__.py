"""Lightning callbacks: what is watched, drawn and saved during training."""

from diffusion_lab.callbacks.compiled import CompiledNetwork
from diffusion_lab.callbacks.ema import EMA
from diffusion_lab.callbacks.fid import FID, FIDEstimate
from diffusion_lab.callbacks.finite_loss import FiniteLoss
from diffusion_lab.callbacks.last import LastCheckpoint
from diffusion_lab.callbacks.loss_by_noise import LossByNoise
from diffusion_lab.callbacks.losses import LossHistory
from diffusion_lab.callbacks.monitors import EarlyStopping, ModelCheckpoint
from diffusion_lab.callbacks.pending import PendingMetrics
from diffusion_lab.callbacks.pictures import Figures
from diffusion_lab.callbacks.post_hoc_ema import PostHocEMA
from diffusion_lab.callbacks.progress import progress_bar
from diffusion_lab.callbacks.random_state import RandomState
from diffusion_lab.callbacks.resume_state import ResumeState
from diffusion_lab.callbacks.sample_grid import SampleGrid
from diffusion_lab.callbacks.save_config import SaveConfig
from diffusion_lab.callbacks.step_log import StepLog
from diffusion_lab.callbacks.throughput import Throughput
from diffusion_lab.callbacks.time_limit import TimeLimit
from diffusion_lab.callbacks.validate import ValidateAtTheEnd

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
