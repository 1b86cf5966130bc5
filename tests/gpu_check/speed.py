"""How fast it is there, side by side with the plain way, in turn."""

import json
import statistics
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchvision.datasets import MNIST
from torchvision.transforms import ToTensor

from diffusion_lab import compose_config, load_run
from diffusion_lab.benchmark.interleaved import OFF_THE_CLOCK, Blocks, interleaved_training
from diffusion_lab.benchmark.parts.sampling import sampling
from diffusion_lab.benchmark.parts.time_to_fid import FINAL_FID, time_to_fid
from diffusion_lab.benchmark.parts.trainer_overhead import BLOCKS, WORDS, bare_loop
from diffusion_lab.benchmark.settings import Settings
from diffusion_lab.benchmark.timing import timed
from diffusion_lab.benchmark.torchvision_files import write_torchvision_files
from diffusion_lab.benchmark.tutorial_baseline import (
    AtTimeZero,
    PlainTraining,
    PlainUNet,
    plain_unet2d,
)
from diffusion_lab.config.instantiate import build
from diffusion_lab.data.datamodule import ImageDataModule
from diffusion_lab.networks.fast_unet import FastUNet
from diffusion_lab.scoring.choose_scorer import choose_scorer
from tests.gpu_check.hooks import Steps
from tests.gpu_check.place import (
    ALONE,
    MISSED,
    NOT_JUDGED,
    OK,
    SKIPPED,
    SMALL,
    SMALL_UNET2D,
    Place,
    Row,
    check,
    goal,
    words_of,
)

PUBLISHED = {
    "notebook_basic_unet": (0.026736, 0.020692, 0.018887),
    "notebook_unet2d": (0.018925,),
}
"""Mean losses of the tutorial's epochs, of one unseeded run."""
QUICKSTART_FID = 0.214
"""Of two minutes on two cores, ten calls, n = 10,000: mean and deviation of three trainings."""
PRECISE = "32-true"
WAYS = {
    PRECISE: [],
    "bf16-mixed": ["trainer.precision=bf16-mixed"],
    "bf16-mixed, compiled": [
        "trainer.precision=bf16-mixed",
        "trainer.compile=true",
        "trainer.compile_mode=reduce-overhead",
    ],
}
COMPILED = {("basic_unet", 128), ("unet_fast", 128)}  # each takes most of a minute
UNET2D_GOAL = 3.0


class OnDevice:
    """The tutorial's batches out of the device's memory."""

    def __init__(self, images: Tensor, batch_size: int, device: torch.device) -> None:
        self.images, self.batch_size = (images.float() / 255).to(device), batch_size

    def __iter__(self) -> Iterator[tuple[Tensor, None]]:
        """An epoch."""
        order = torch.randperm(len(self.images), device=self.images.device)
        for part in order.split(self.batch_size):
            yield self.images[part], None


class Timeless(nn.Module):
    """The project's own network as the tutorial would call it."""

    def __init__(self) -> None:
        super().__init__()
        self.network = FastUNet()

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        return self.network(x, torch.zeros(len(x), device=x.device))


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "basic_unet": PlainUNet,
    "unet2d": lambda: AtTimeZero(plain_unet2d()),
    "unet_fast": Timeless,
}


class TutorialLoops:
    """The tutorial's loop with four workers, and out of the device's memory."""

    def __init__(self, place: Place, data: ImageDataModule, name: str, batch_size: int) -> None:
        root = write_torchvision_files(data, place.folder())
        files = MNIST(root, train=True, download=False, transform=ToTensor())
        workers = 0 if place.tiny else 4
        loader = DataLoader(
            files, batch_size, shuffle=True, num_workers=workers, persistent_workers=workers > 0
        )
        there = OnDevice(data.pixels("train"), batch_size, place.device)
        self.device = place.device
        self.loops = [
            PlainTraining(NETWORKS[name](), source, place.device) for source in (loader, there)
        ]
        self.steps(2)
        self.seconds: list[list[float]] = [[], []]

    def steps(self, count: int) -> None:
        """Train both so many steps further."""
        for loop in self.loops:
            loop.steps(count)

    def timed_steps(self, count: int) -> None:
        """Do the same, and note the seconds of a step."""
        for loop, kept in zip(self.loops, self.seconds, strict=True):
            kept.append(timed(lambda loop=loop: loop.steps(count), self.device) / count)


def training_data(place: Place) -> ImageDataModule:
    """MNIST as a training has it."""
    data: ImageDataModule = build(compose_config(words_of(place, SMALL)).data)
    data.setup("fit")
    return data


@check(ALONE, "the tutorial's runs", 60)
def tutorial(place: Place) -> Iterator[Row]:
    """Their losses against the published, and their steps against the tutorial's own."""
    for name, published in PUBLISHED.items():
        times, epochs = Steps(), len(published)
        network = SMALL_UNET2D if name == "notebook_unet2d" else ()
        few = ["trainer.limit_train_batches=3", "callbacks.figures=null", "callbacks.samples=null"]
        tiny = words_of(place, [*SMALL, *few, *network])
        words = [f"experiment={name}", f"trainer.max_epochs={epochs}", *tiny]
        result = place.train(times, *words)
        found = json.loads((result.run_dir / "metrics.json").read_text())["epoch_losses"]
        off = [100 * (a / b - 1) for a, b in zip(found, published, strict=True)]
        within = OK if max(map(abs, off)) <= 3 else MISSED
        yield Row(
            f"experiment={name}: mean loss of an epoch (against the published)",
            ", ".join(f"{a:.6f} ({b:+.1f} %)" for a, b in zip(found, off, strict=True)),
            "within 3 %" + ("" if place.full else ", with the full MNIST"),
            within if place.full else NOT_JUDGED,
        )
        if name == "notebook_basic_unet":
            seconds, steps = times.seconds, len(times.losses)
            yield goal(place, f"its {steps} steps", seconds, "s", 15, at_least=False)
            loops = TutorialLoops(
                place, training_data(place), "basic_unet", 8 if place.tiny else 128
            )
            loops.timed_steps(3 if place.tiny else 469)
            faster = loops.seconds[0][0] / (seconds / steps)
            what = "the same against the tutorial's loop with four workers"
            yield goal(place, what, faster, "times as fast", 8, at_least=True)


@check(ALONE, "training speed", 200)
def training_speed(place: Place) -> Iterator[Row]:
    """Images a second of three networks, two sizes of batch, in float32, bfloat16 and compiled."""
    data = training_data(place)
    for name in NETWORKS:
        for batch_size in (2,) if place.tiny else (128, 512):
            loops = TutorialLoops(place, data, name, batch_size)
            for way, words in list(WAYS.items())[: 1 if place.tiny else None]:
                if (name, batch_size) in COMPILED or "compiled" not in way:
                    yield raced(place, loops, name, batch_size, way, words)


def raced(
    place: Place,
    loops: TutorialLoops,
    name: str,
    batch_size: int,
    way: str,
    words: Sequence[str],
) -> Row:
    """Our training with the tutorial's loops in its pauses."""
    loops.seconds = [[], []]
    model = "unet2d" if name == "unet2d" else "basic_unet"
    others = [word for word in OFF_THE_CLOCK if not word.startswith("callbacks.")]
    data = words_of(place, SMALL)
    words = [f"model={model}", f"network={name}", "callbacks=minimal", *words, *others, *data]
    cfg = compose_config(
        [place.accelerator, *words, f"data.batch_size={batch_size}"], place.folder()
    )
    steps, repeats = (3, 2) if place.tiny else (12_800 // batch_size + 20, 5)
    blocks = Blocks(loops.timed_steps, steps, repeats)
    interleaved_training(cfg, blocks)
    ours = statistics.median(blocks.our_seconds)
    loop, there = (statistics.median(kept) / ours for kept in loops.seconds)
    judged = (name, batch_size, way) == ("unet2d", 128, PRECISE) and place.on_gpu
    return Row(
        f"training, {name}, batch {batch_size}, {way}",
        f"{batch_size / ours:,.0f} images/s, {loop:.2f} times the tutorial's loop, {there:.2f} "
        "times that out of the device's memory",
        f"at least {UNET2D_GOAL:g} times the loop" if judged else "",
        (OK if loop >= UNET2D_GOAL else MISSED) if judged else NOT_JUDGED,
        details={"ours": blocks.our_seconds, "tutorial, on device": loops.seconds},
    )


def settings_of(place: Place, precision: str = PRECISE) -> Settings:
    """What the benchmark's own parts are told."""
    return Settings(
        repeats=1 if place.tiny else 3,
        seconds=0.2 if place.tiny else 3.0,
        batch_size=128,
        num_samples=1 if place.tiny else 256,
        run=None,
        device=place.device,
        accelerator=place.accelerator.partition("=")[2],
        threads=torch.get_num_threads(),
        precision=precision,
        data="fake" if place.tiny else "mnist",
        words=tuple(words_of(place, ["data.num_images=200", "data.val_size=16"])),
        training_words=(),
        scratch=place.folder(),
    )


@check(ALONE, "what the trainer costs a step", 30)
def overhead(place: Place) -> Iterator[Row]:
    """Time beyond a bare loop over the same batches, with all callbacks that a run has."""
    settings = settings_of(place)
    bare = bare_loop(settings, settings.compose(*WORDS, *OFF_THE_CLOCK))
    bare.steps(10)
    blocks = Blocks(bare.steps, 10 if place.tiny else 200, 3 if place.tiny else BLOCKS)
    seconds = interleaved_training(settings.compose(*WORDS, *OFF_THE_CLOCK), blocks)
    beyond = [1000 * (b - a) for a, b in zip(seconds.baseline, seconds.ours, strict=True)]
    what = "a step beyond a bare loop"
    yield goal(place, what, statistics.median(beyond), "ms", 1.0, at_least=False)


@check(ALONE, "sampling speed", 30)
def sampling_speed(place: Place) -> Iterator[Row]:
    """The same UNet2DModel, weights and ten steps as diffusers' DDIMPipeline in float32."""
    for precision in (PRECISE, "bf16-mixed")[: 1 if place.tiny else None]:
        (row,) = sampling(settings_of(place, precision))
        theirs, ours = row.comparison.medians
        yield Row(
            f"samples, UNet2DModel, ten steps, {precision}",
            f"{ours:,.0f} images/s, {row.comparison.ratio:.2f} times diffusers' DDIMPipeline "
            f"({theirs:,.0f})",
            verdict=NOT_JUDGED,
        )


@check(ALONE, "quickstart in fifteen seconds", 60)
def quickstart(place: Place) -> Iterator[Row]:
    """Its FID against that of two minutes on a CPU."""
    if place.tiny:
        yield Row("experiment=quickstart, 15 s", "made-up images have no FID", verdict=SKIPPED)
        return
    words = ["experiment=quickstart", "data.batch_size=128", "trainer.max_time=00:00:00:15"]
    result = place.train(None, *words, "callbacks=minimal")
    run = load_run(result.run_dir)
    run.module.to(place.device)
    images = run.sample(10_000, batch_size=2_000)  # ten calls each, as the recipe says
    fid = choose_scorer(None, run, None)(images).scores["fid"]
    what = f"{' '.join(words)}: FID of 10,000, ten calls, {result.trainer.global_step} steps"
    yield goal(place, what, fid, "", QUICKSTART_FID, at_least=False)


@check(ALONE, "time to BasicUNet's FID", 60)
def first_good_samples(place: Place) -> Iterator[Row]:
    """Seconds until quickstart_classes is as good as the tutorial's model after its training."""
    if place.tiny:
        yield Row("time to BasicUNet's FID", "made-up images have no FID", verdict=SKIPPED)
        return
    (row,) = time_to_fid(settings_of(place))
    theirs, ours = row.comparison.medians
    yield Row(
        f"time to BasicUNet's FID of {FINAL_FID}",
        f"{ours:.1f} s; the tutorial's loop takes {theirs:.1f} s to it",
        verdict=OK if row.details["reached"] else MISSED,
        details=row.details,
    )
