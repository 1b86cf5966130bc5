"""GPU checks and settings on a machine without a GPU: torch's answers are simulated."""

import json

import pytest
import torch
from omegaconf import OmegaConf

from diffusion_lab import compose_config, train
from diffusion_lab.data import placement
from diffusion_lab.data.loader import InMemoryLoader
from diffusion_lab.errors import UserError
from diffusion_lab.modules import DiffusionModule
from diffusion_lab.system import device
from diffusion_lab.system.device import check_gpu, gpu_settings, gpu_settings_restored, use_tf32
from diffusion_lab.training.components import build_model
from tests.cli.test_bad_input import assert_refused
from tests.conftest import TINY

GPU = torch.device("cuda:0")
WITHOUT_GPU = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")


@pytest.fixture
def card(monkeypatch):
    """Simulate a GPU of some compute capability and a torch built for some architectures."""

    def there(capability, built_for):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
        monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: list(built_for))
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Some Card")

    return there


@pytest.mark.parametrize(
    ("capability", "built_for"),
    [
        ((9, 0), ["sm_80", "sm_90"]),
        ((8, 9), ["sm_75", "sm_80"]),  # a later minor version
        ((9, 0), ["sm_90a"]),
        ((12, 1), ["sm_100", "compute_120"]),  # PTX runs on every later GPU
        ((3, 7), []),  # a build without a list of architectures
    ],
)
def test_a_supported_gpu_is_accepted(card, capability, built_for):
    card(capability, built_for)
    check_gpu(GPU)


@pytest.mark.parametrize(
    ("capability", "built_for"),
    [
        ((3, 7), ["sm_75", "sm_80", "compute_120"]),
        ((7, 0), ["sm_75"]),
        ((10, 0), ["sm_90"]),  # newer than the build, and no PTX
    ],
)
def test_an_unsupported_gpu_is_rejected(card, capability, built_for):
    card(capability, built_for)
    with pytest.raises(UserError) as refused:
        check_gpu(GPU)
    text = str(refused.value)
    assert f"Some Card has compute capability {capability[0]}.{capability[1]}" in text
    assert built_for[0] in text and "trainer.accelerator=cpu" in text and "\n" not in text


@WITHOUT_GPU
@pytest.mark.parametrize("command", ["train", "sample"])
def test_a_build_without_cuda_is_named_as_the_reason(command, typed, monkeypatch, trained):
    monkeypatch.setattr(torch.version, "cuda", None)
    arguments = {
        "train": (*TINY, "trainer.accelerator=gpu"),
        "sample": (f"run={trained['ddpm']}", "accelerator=gpu"),
    }
    refused = typed(command, *arguments[command])
    assert_refused(refused, "accelerator=gpu", "build without CUDA", "docs/gpu.md")
    assert torch.__version__ in refused[2]


@WITHOUT_GPU
@pytest.mark.skipif(torch.version.cuda is None, reason="torch has no CUDA")
def test_a_machine_without_a_gpu_is_named_as_the_reason(typed):
    refused = typed("train", *TINY, "trainer.accelerator=gpu")
    assert_refused(refused, "accelerator=gpu", "finds no GPU", "nvidia-smi")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["data.on_device=maybe"], ["data.on_device=maybe", "auto, true or false"]),
        (
            ["trainer.compile_mode=fast", "trainer.compile=true"],
            ["compile_mode=fast", "max-autotune"],
        ),
        (["trainer.compile_mode=reduce-overhead"], ["trainer.compile=true"]),
        (["trainer.tf32=sometimes"], ["trainer.tf32=sometimes", "expected true or false"]),
        (
            ["trainer.channels_last=perhaps"],
            ["trainer.channels_last=perhaps", "auto, true or false"],
        ),
    ],
)
def test_invalid_gpu_settings_are_rejected(typed, overrides, message):
    assert_refused(typed("train", *TINY, *overrides), *message)


def images(count=10):
    return torch.arange(count * 4, dtype=torch.uint8).view(count, 1, 2, 2)


@pytest.mark.parametrize(
    ("on_device", "free", "moved"),
    [
        ("auto", 40 * 4 + 1, True),
        ("auto", 40 * 4, True),  # a quarter of it
        ("auto", 40 * 4 - 1, False),
        (True, 40, True),
        (False, 10**9, False),
    ],
)
def test_images_move_to_a_gpu_with_enough_free_memory(on_device, free, moved, monkeypatch):
    monkeypatch.setattr(placement, "free_memory", lambda device: free)
    assert placement.belongs_on(GPU, [images()], on_device) is moved


def test_images_larger_than_gpu_memory_are_rejected(monkeypatch):
    monkeypatch.setattr(placement, "free_memory", lambda device: 10 * 2**20)
    many = torch.empty(11 * 2**20, dtype=torch.uint8)
    with pytest.raises(UserError, match=r"need 11 MiB, but cuda:0 has 10 MiB free.*on_device=auto"):
        placement.belongs_on(GPU, [many], True)


def test_on_a_cpu_images_are_not_moved():
    assert not placement.belongs_on(torch.device("cpu"), [images()], True)


def test_pinned_batches_hold_the_same_values(monkeypatch):
    asked = []
    empty = torch.empty

    def without_a_gpu(*size, pin_memory=False, **options):
        asked.append(pin_memory)
        return empty(*size, **options)

    plain = list(InMemoryLoader(images(), torch.arange(10), 4, shuffle=True))
    monkeypatch.setattr(torch, "empty", without_a_gpu)
    loader = InMemoryLoader(images(), torch.arange(10), 4, shuffle=True, pin_memory=True)
    for (x, y), (same_x, same_y) in zip(plain, loader, strict=True):
        assert torch.equal(x, same_x) and torch.equal(y, same_y)
    assert asked == [True] * 6


def test_tf32_is_reported_and_restored(card, monkeypatch):
    card((9, 0), ["sm_90"])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)
    before = torch.backends.cudnn.allow_tf32
    with gpu_settings_restored():
        use_tf32(True)
        line = gpu_settings(GPU, torch.channels_last)
        assert line == "Some Card, TF32 on, cudnn.benchmark off, channels_last on"
        use_tf32(False)
        torch.backends.cudnn.benchmark = True
        line = gpu_settings(GPU, torch.contiguous_format)
        assert line == "Some Card, TF32 off, cudnn.benchmark on, channels_last off"
    assert torch.backends.cudnn.allow_tf32 is before
    assert not torch.backends.cuda.matmul.allow_tf32 and not torch.backends.cudnn.benchmark


@pytest.mark.parametrize("enabled", [True, False])
def test_training_sets_tf32_as_configured(enabled, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr("diffusion_lab.training.build.use_tf32", asked.append)
    train(compose_config([*TINY, f"trainer.tf32={str(enabled).lower()}"], tmp_path))
    assert asked == [enabled]


@pytest.mark.parametrize(
    ("setting", "layout"),
    [
        ("auto", torch.contiguous_format),  # UNet2D's own choice
        ("true", torch.channels_last),
        ("false", torch.contiguous_format),
    ],
)
def test_channels_last_sets_the_memory_layout_of_weights(setting, layout):
    module = build_model(compose_config(["model=unet2d", f"trainer.channels_last={setting}"]))
    assert isinstance(module, DiffusionModule) and module.memory_format is layout
    weights = [p for p in module.parameters() if p.ndim == 4 and min(p.shape) > 1]
    assert all(p.is_contiguous(memory_format=layout) for p in weights)


def test_a_configuration_without_the_gpu_settings_still_trains(tmp_path):
    """As in a run folder of an earlier version."""
    cfg = compose_config([*TINY[:-2], "callbacks=minimal"], tmp_path)
    cfg = OmegaConf.create(OmegaConf.to_container(cfg))  # as YAML has it, without types
    for name in ("compile_mode", "tf32", "channels_last"):
        del cfg.trainer[name]
    del cfg.data["on_device"]
    train(cfg)
    assert json.loads((tmp_path / "metrics.json").read_text())["gpu"] is None


def test_deterministic_accepts_warn(tmp_path):
    train(compose_config([*TINY, "trainer.deterministic=warn"], tmp_path))
    torch.use_deterministic_algorithms(False)


def test_half_precision_on_a_cpu_is_reported(tmp_path, caplog):
    train(compose_config([*TINY, "trainer.precision=16-mixed"], tmp_path))
    assert "trainer.precision=16-mixed needs a GPU: using bf16-mixed" in caplog.text


@pytest.mark.parametrize("accelerator", ["GPU", "tpu"])
def test_an_unknown_accelerator_is_rejected(accelerator, typed, trained):
    assert_refused(typed("train", *TINY, f"trainer.accelerator={accelerator}"), "gpu or auto")
    refused = typed("sample", f"run={trained['ddpm']}", f"accelerator={accelerator}")
    assert_refused(refused, f"accelerator={accelerator}", "gpu or auto")


@WITHOUT_GPU
def test_the_reason_for_no_gpu(monkeypatch):
    monkeypatch.setattr(torch.version, "cuda", None)
    assert "without CUDA" in device.why_no_gpu()
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert device.why_no_gpu() is None
