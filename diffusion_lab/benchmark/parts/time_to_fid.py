"""Benchmark of the training time until experiment=quickstart_classes reaches a given FID.

The FID is that of BasicUNet, the model of Hugging Face's tutorial, after three epochs.
"""

import time
from dataclasses import dataclass
from functools import partial

from diffusion_lab.benchmark.settings import Settings, run_words
from diffusion_lab.benchmark.table import Row, Target
from diffusion_lab.benchmark.timing import Comparison, timed
from diffusion_lab.benchmark.torchvision_files import write_torchvision_files
from diffusion_lab.benchmark.tutorial_baseline import PlainTraining, PlainUNet, plain_loader
from diffusion_lab.runs.load import load_run
from diffusion_lab.scoring.choose_scorer import choose_scorer
from diffusion_lab.training.train import train

FINAL_FID = 11.29
"""FID to reach: BasicUNet after three epochs, NFE 10, 10,000 samples, three seeds (RESULTS.md)."""
FINAL_STEPS = 1407
"""Optimizer steps in the three epochs of `FINAL_FID`, each with 469 batches of 128 images."""
TARGET = Target(1 / 25, at_least=False)
WORDS = (
    "experiment=quickstart_classes",
    "data.batch_size=32",  # the recipe's own, not that of the other parts
    "data.val_size=1000",
    "callbacks.samples=null",
    "callbacks.figures=null",
)
BUDGETS = (4, 5, 6, 7, 8, 10, 14, 20, 30, 60, 120)
"""Limits of the training time in seconds, tried in turn.

Each limit needs a run of its own, because the learning rate falls to 0 at the limit.
"""
TRAININGS = 3  # seeds, which must all reach the FID
NUM_SAMPLES = 2000


def time_to_fid(settings: Settings) -> list[Row]:
    """Measure the seconds that experiment=quickstart_classes needs to reach BasicUNet's final FID.

    The time of a run counts from its start to its end. The time of the tutorial's loop is scaled
    from a few timed steps. FID is computed from fewer samples than `FINAL_FID` was, which makes it
    higher on average.
    """
    data = settings.datamodule()
    root = write_torchvision_files(data, settings.scratch / "time_to_fid")
    plain = PlainTraining(PlainUNet(), plain_loader(root, 128), settings.device)
    plain.steps(1)
    once = timed(lambda: plain.steps(1), settings.device)
    steps = settings.block(once)
    tutorials = [
        FINAL_STEPS / steps * timed(partial(plain.steps, steps), settings.device)
        for _ in range(TRAININGS)
    ]
    for budget in BUDGETS:
        trained: list[_Training] = []
        while len(trained) < TRAININGS:
            trained.append(_training(settings, budget, seed=len(trained)))
            if not trained[-1].reached:
                break
        else:
            seconds = [training.seconds for training in trained]
            break
    else:  # not reached within any budget
        seconds = [max(trained[-1].seconds, *tutorials)] * TRAININGS
    return [
        Row(
            "time_to_fid",
            "time to BasicUNet's final FID",
            f"the tutorial's loop, {FINAL_STEPS:,} steps, of which {steps} were timed",
            "s",
            Comparison(tuple(tutorials), tuple(seconds)),
            TARGET,
            {
                "words": run_words(WORDS),
                "max_time_s": budget,
                "trainings": len(trained),
                "reached": all(training.reached for training in trained),
                "fid": [training.fid for training in trained],
                "fid_to_reach": FINAL_FID,
                "num_samples": NUM_SAMPLES,
                "steps": [training.steps for training in trained],
            },
        )
    ]


@dataclass(frozen=True)
class _Training:
    seconds: float
    fid: float
    steps: int

    @property
    def reached(self) -> bool:
        return self.fid <= FINAL_FID


def _training(settings: Settings, budget: int, seed: int) -> _Training:
    limit = f"trainer.max_time=00:00:{budget // 60:02}:{budget % 60:02}"
    cfg = settings.compose(*WORDS, limit, f"seed={seed}", f"trainer.precision={settings.precision}")
    began = time.perf_counter()
    result = train(cfg)
    seconds = time.perf_counter() - began
    run = load_run(result.run_dir)
    run.module.to(settings.device)
    images = run.sample(NUM_SAMPLES, batch_size=250)  # by the recipe's sampler: NFE 10 too
    fid = choose_scorer(None, run, None)(images).scores["fid"]
    return _Training(seconds, fid, result.trainer.global_step)
