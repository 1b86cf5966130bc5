"""Data x network x model: two training steps and a sample, or an error of one line.

Every pair of data and network, of data and model, and of network and model is tried.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from diffusion_lab import compose_config, load_run, train
from diffusion_lab.config.search_path import options
from diffusion_lab.errors import UserError
from tests.conftest import TINY_UNET_WORDS

ONE_LEVEL = ["network.width=8", "network.depth=1"]
CIFAR = [
    "network.block_out_channels=[4,4,4,4]",
    "network.layers_per_block=1",
    "network.norm_num_groups=2",
    "network.attention_head_dim=4",
]
NETWORKS = {
    "basic_unet": ["network.channels=[4,4,4]"],
    "dit": ["network.width=16", "network.depth=1"],
    "mlp": ONE_LEVEL,
    "unet2d": TINY_UNET_WORDS,
    "unet_cifar": CIFAR,
    "unet_fast": ONE_LEVEL,
}
OTHER_SIZES = {"unet_cifar_small", "unet_fast_wide"}
"""Networks that differ from another one in their size only."""
MODELS = ("basic_unet", "ddpm", "edm", "flow", "score_matching", "unet2d")
DATA = {
    "gray 28": (1, 28, 28),
    "colour 32": (3, 32, 32),
    "pictures": (4, 24, 32),
    "npz": (2, 16, 16),
}
COMBINATIONS = [
    (list(DATA)[(i + j) % len(DATA)], network, model)
    for i, network in enumerate(NETWORKS)
    for j, model in enumerate(MODELS)
]
FEW = (
    "data.batch_size=2",
    "data.val_size=4",
    "callbacks=minimal",
    "callbacks.best=null",
    "logger=csv",
    "trainer.max_steps=2",
    "trainer.log_every_n_steps=1",
    "trainer.accelerator=cpu",
    "sampler.num_steps=1",
)


def refusal(data: str, network: str, model: str) -> str | None:
    """Return a part of the expected error, None if the combination trains."""
    if model == "unet2d" and network == "basic_unet":  # the model switches the time off
        return "network.use_time"
    if data == "gray 28" and network == "unet_cifar":
        return "data.image_size=28 is no multiple of 8; nearest possible: data.image_size=24 or"
    return None


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Pictures with transparency, 24 x 32, and a file of images of two channels."""
    folder = tmp_path_factory.mktemp("any_data")
    random = np.random.default_rng(0)
    (folder / "pictures").mkdir()
    for k in range(12):
        pixels = random.integers(0, 256, (24, 32, 4), dtype=np.uint8)
        Image.fromarray(pixels, "RGBA").save(folder / "pictures" / f"{k}.png")
    images = random.integers(0, 256, (12, 2, 16, 16), dtype=np.uint8)
    np.savez(folder / "images.npz", images=images)
    return folder


def words_of(data: str, folder: Path) -> list[str]:
    channels, height, width = DATA[data]
    shape = [f"data.channels={channels}", f"data.image_size=[{height},{width}]"]
    if height == width:
        shape[1] = f"data.image_size={height}"
    if data == "pictures":
        return ["data=images", f"data.path={folder / data}", f"data.cache_dir={folder}", *shape]
    if data == "npz":
        return ["data=npz", f"data.path={folder / 'images.npz'}", *shape]
    return ["data=fake", "data.num_images=24", *shape]


def test_all_options_are_there_and_meet():
    assert set(NETWORKS) | OTHER_SIZES == set(options("network")) and set(MODELS) == set(
        options("model")
    )
    for first, second in ((0, 1), (0, 2), (1, 2)):
        pairs = {(each[first], each[second]) for each in COMBINATIONS}
        firsts, seconds = ({each[k] for each in COMBINATIONS} for k in (first, second))
        assert len(pairs) == len(firsts) * len(seconds)


@pytest.mark.slow
@pytest.mark.parametrize(("data", "network", "model"), COMBINATIONS)
def test_two_steps_and_a_sample(data, network, model, folder, tmp_path):
    words = [*words_of(data, folder), f"model={model}", f"network={network}", *NETWORKS[network]]
    cfg = compose_config([*words, *FEW], tmp_path)
    if (expected := refusal(data, network, model)) is not None:
        with pytest.raises(UserError) as error:
            train(cfg)
        assert expected in str(error.value) and "\n" not in str(error.value)
        return
    result = train(cfg)
    assert result.trainer.global_step == 2
    assert torch.tensor(result.metrics["train/loss"]).isfinite()
    images = load_run(tmp_path).sample(2)
    assert images.shape == (2, *DATA[data]) and images.dtype == torch.uint8
