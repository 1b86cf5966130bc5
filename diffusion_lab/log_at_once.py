"""Metrics for the loggers and the bar, without Lightning's collection of results.

`LightningModule.log` is for what is gathered over steps or processes. It makes an object a metric,
walks through all of them in every step, and has the loggers written out at every interval: together
longer than all else that a step does beside the network.
"""

from collections.abc import Mapping

import lightning as L
import torch


def log_at_once(trainer: L.Trainer, metrics: Mapping[str, float], **beside: float) -> None:
    """Give the loggers, `trainer.callback_metrics` and the progress bar a step's metrics.

    Of the step that is under way; the first process's are logged, as Lightning does with
    what it is not told to gather. The loggers also get what goes `beside` them.
    """
    # what Lightning's LearningRateMonitor does; the dictionaries are the trainer's own
    trainer.callback_metrics.update({name: torch.tensor(x) for name, x in metrics.items()})
    trainer.progress_bar_metrics.update(metrics)
    step = trainer.fit_loop.epoch_loop._batches_that_stepped
    for logger in trainer.loggers:
        logger.log_metrics({**metrics, **beside}, step)
