"""Benchmark of the peak memory of a process that trains a few batches."""

from diffusion_lab.benchmark.settings import Settings, run_words
from diffusion_lab.benchmark.subprocesses import last_json
from diffusion_lab.benchmark.table import Row, Target
from diffusion_lab.benchmark.timing import alternate
from diffusion_lab.benchmark.torchvision_files import write_torchvision_files

TARGET = Target(1.1, at_least=False)
BATCHES = 20
WORDS = (
    "experiment=notebook_basic_unet",
    f"trainer.limit_train_batches={BATCHES}",
    "trainer.max_epochs=1",
    "trainer.limit_val_batches=2",
)
PEAK = ("-m", "diffusion_lab.benchmark.parts.peak_memory")


def memory(settings: Settings) -> list[Row]:
    """Measure the peak memory of a short training, in MiB; compare it with Hugging Face's tutorial.

    Both trainings use the same images. Both values contain the memory of the imported libraries.
    """
    val = f"data.val_size={max(1, min(500, len(settings.datamodule().pixels('train')) // 10))}"
    data = settings.datamodule(val)
    root = write_torchvision_files(data, settings.scratch / "memory")
    batches = min(BATCHES, len(data.train_dataloader()))
    del data
    loop = (*PEAK, "loop", str(root), str(settings.batch_size), str(batches), str(settings.device))
    training = (
        f"data={settings.data}",
        *settings.words,
        *WORDS,
        val,
        f"data.batch_size={settings.batch_size}",
        f"trainer.accelerator={settings.accelerator}",
    )
    details: dict[str, object] = {"words": run_words((*WORDS, val)), "batches": batches}

    def peak(side: str, arguments: tuple[str, ...]) -> float:
        usage = last_json(settings, arguments)
        details[f"{side}_after_imports_mib"] = usage["imports"] / 2**20
        return float(usage["peak"]) / 2**20

    comparison = alternate(
        lambda: peak("baseline", loop),
        lambda: peak("our", (*PEAK, "train", *training, f"hydra.run.dir={settings.new_folder()}")),
        min(2, settings.repeats),
        warm_up=False,
    )
    return [
        Row(
            "memory",
            "peak memory, experiment=notebook_basic_unet",
            "the tutorial's imports and loop, the same number of batches",
            "MiB",
            comparison,
            TARGET,
            details | {"ours_besides": "a validation of 2 batches and the tutorial's figures"},
        )
    ]
