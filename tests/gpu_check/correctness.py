"""The same numbers as on a CPU, in every precision, and no step that waits."""

import logging
from collections.abc import Iterator

import torch
from torch import Tensor

from diffusion_lab import compose_config, load_run
from diffusion_lab.config.instantiate import build
from diffusion_lab.data.datamodule import ImageDataModule
from diffusion_lab.data.loader import InMemoryLoader
from diffusion_lab.modules import DiffusionModule
from diffusion_lab.sampling.draw import draw
from diffusion_lab.system.device import use_tf32
from tests.gpu_check.hooks import NoWaiting, Steps
from tests.gpu_check.place import (
    HERE,
    SMALL,
    SMALL_UNET2D,
    Place,
    Row,
    check,
    needs_a_gpu,
    words_of,
)

CPU = torch.device("cpu")
FAST_MODELS = ("flow", "score_matching", "edm")
"""Those on the project's own network."""
UNET2D_MODELS = ("unet2d", "ddpm")
MODELS = ("basic_unet", *UNET2D_MODELS, *FAST_MODELS)
PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")
SAMPLERS = ("blend", "heun", "ddim", "dpm_solver", "unipc", "deis", "euler")
SAMPLERS += ("ddpm", "euler_ancestral", "dpm_solver_sde")
FAKE = ("data=fake", "data.num_images=8000", "callbacks=minimal", "trainer.limit_val_batches=1")


@check(HERE, "every model in every precision", 60)
def models(place: Place) -> Iterator[Row]:
    """Finite losses."""
    steps = 3 if place.tiny else 50
    for model in MODELS:
        found = []
        for precision in PRECISIONS:
            if precision == "16-mixed" and not place.on_gpu:
                continue
            if place.on_gpu:
                torch.cuda.reset_peak_memory_stats()
            times = Steps()
            network = SMALL_UNET2D if model in UNET2D_MODELS else ()
            if model in FAST_MODELS:
                network = ("network.width=8",)
            small = words_of(place, [*SMALL, *network])
            words = [f"model={model}", f"trainer.precision={precision}"]
            place.train(times, *FAKE, *small, *words, f"trainer.max_steps={steps}")
            losses = torch.stack(times.losses).float().cpu()
            assert len(losses) == steps and losses.isfinite().all(), (model, precision, losses)
            peak = torch.cuda.max_memory_allocated() / 2**20 if place.on_gpu else 0
            found.append(f"{precision} {losses[-5:].mean():.4f} ({peak:,.0f} MiB)")
        what = f"model={model}, {steps} steps: last losses (peak memory of the GPU)"
        yield Row(what, ", ".join(found), "finite")


@check(HERE, "the same losses as on the CPU", 60)
def losses(place: Place) -> Iterator[Row]:
    """From the same weights, with the same noise and times, drawn on the CPU.

    Trainings draw on their own device: from one seed a CPU and a GPU see the same images in the
    same order, and other noise.
    """
    use_tf32(False)
    steps, off = (2 if place.tiny else 20), {}
    for model in MODELS:
        width = ["network.width=16"] if model in FAST_MODELS else []
        small = words_of(place, SMALL_UNET2D if model in UNET2D_MODELS else ())
        words = ["data=fake", "data.num_images=600", "data.batch_size=16", f"model={model}"]
        cfg = compose_config([*words, *width, *small])
        data: ImageDataModule = build(cfg.data)
        data.setup("fit")
        seen = []
        for device in (CPU, place.device):
            torch.manual_seed(0)
            module: DiffusionModule = build(cfg.model).to(device)
            optimizer = module.make_optimizer(module.parameters())
            torch.manual_seed(1)
            values = []
            for batch, _ in zip(data.train_dataloader(), range(steps), strict=False):
                drawn = module.draw(*data.on_after_batch_transfer(batch, 0))
                moved = (None if x is None else x.to(device) for x in drawn)
                loss = module.losses(*moved)[1].mean()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                values.append(loss.item())
            seen.append(torch.tensor(values))
        off[model] = ((seen[0] - seen[1]).abs() / seen[0]).max().item()
    assert max(off.values()) < 0.02, off
    yield Row(
        f"the first {steps} losses against the CPU's, TF32 off: largest relative difference",
        ", ".join(f"{model} {value:.1e}" for model, value in off.items()),
        "below 2 %",
    )


@check(HERE, "the same samples as on the CPU", 60)
def samples(place: Place) -> Iterator[Row]:
    """The same weights, seed and sampler; an image's noise is drawn on the CPU in any case."""
    words = [*FAKE, "model=ddpm", "network=unet_fast", "network.width=16"]
    result = place.train(None, *words, f"trainer.max_steps={1 if place.tiny else 100}")
    run = load_run(result.run_dir)
    use_tf32(False)
    steps, off = (4 if place.tiny else 20), {}
    for name in SAMPLERS:
        cfg = compose_config([*words, f"sampler={name}", f"sampler.num_steps={steps}"])
        drawn = []
        for device in (CPU, place.device):
            run.module.to(device)
            drawn.append(run.sample(8, seed=3, sampler=build(cfg.sampler)).int())
        difference = (drawn[0] - drawn[1]).abs()
        off[name] = (difference.max().item(), difference.float().mean().item())
    assert all(mean < 0.5 for _, mean in off.values()), off
    yield Row(
        f"samples against the CPU's, {steps} steps: largest (mean) difference in gray levels",
        ", ".join(f"{name} {worst} ({mean:.2g})" for name, (worst, mean) in off.items()),
        "a mean below 0.5",
    )


@check(HERE, "no step waits", 30)
def no_step_waits(place: Place) -> Iterator[Row]:
    """torch raises an error at whatever synchronises within ten steps."""
    for on_device in ("true", "false"):
        what = f"ten steps that wait for nothing, data.on_device={on_device}"
        if not place.on_gpu:
            yield needs_a_gpu(what)
            continue
        words = ["model=flow", "trainer.max_steps=35", "trainer.log_every_n_steps=1000"]
        try:
            place.train(NoWaiting(), *FAKE, *words, f"data.on_device={on_device}")
        finally:
            torch.cuda.set_sync_debug_mode("default")
        yield Row(what, "ok")


@check(HERE, "the same batches as on the CPU", 30)
def batches(place: Place) -> Iterator[Row]:
    """Out of the device's memory, through pinned memory, and as a CPU has them."""
    data: ImageDataModule = build(compose_config(SMALL).data)
    data.setup("fit")
    images, labels = data.pixels("train"), data.labels("train")
    there = (images.to(place.device), labels.to(place.device))
    settings = {"batch_size": 7, "shuffle": True, "seed": 5}
    plain = InMemoryLoader(images, labels, **settings)
    moved = InMemoryLoader(*there, **settings)
    pinned = InMemoryLoader(images, labels, **settings, pin_memory=place.on_gpu)
    count = 0
    for wanted, *others in zip(plain, moved, pinned, strict=True):
        for other in others:
            back = [tensor.to(place.device, non_blocking=True).cpu() for tensor in other]
            assert all(torch.equal(a, b) for a, b in zip(wanted, back, strict=True))
        count += 1
    yield Row(f"{count} batches from the device's memory and from pinned memory", "bit for bit")


@check(HERE, "out of memory while sampling", 30)
def halved(place: Place) -> Iterator[Row]:
    """A batch that does not fit is drawn in halves, and the images stay the same."""
    what = "out of memory while sampling"
    if not place.on_gpu:
        yield needs_a_gpu(what)
        return
    cfg = compose_config(["data=fake", "model=unet2d"])
    module: DiffusionModule = build(cfg.model).eval().requires_grad_(False).to(place.device)
    data: ImageDataModule = build(cfg.data)
    sampler = build(cfg.sampler)

    def drawn(batch_size: int) -> Tensor:
        torch.cuda.empty_cache()
        return draw(
            module,
            sampler,
            data.image_shape,
            data.value_range,
            num_samples=2048,
            batch_size=batch_size,
            seed=0,
        )[0]

    drawn(256)  # libraries take memory of their own when they are first used
    torch.cuda.reset_peak_memory_stats()
    small = drawn(256)
    total = torch.cuda.get_device_properties(place.device).total_memory
    allowed = 2.5 * torch.cuda.max_memory_reserved() / total
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())
    logger = logging.getLogger("diffusion_lab.sampling.draw")
    logger.addHandler(handler)
    torch.cuda.set_per_process_memory_fraction(min(1.0, allowed))
    try:
        large = drawn(2048)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
        logger.removeHandler(handler)
    assert "out of memory for 2048 images" in lines[0], lines
    worst = (small.int() - large.int()).abs().max().item()
    yield Row(what, f"{lines[-1]}; a pixel differs by at most {worst}")
