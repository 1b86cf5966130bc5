from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.cluster import MiniBatchKMeans

from diffusion_lab.data.clusters import Clusters
from diffusion_lab.data.datamodule import ImageDataModule
from diffusion_lab.errors import UserError


@pytest.fixture(scope="module")
def digits(tmp_path_factory) -> ImageDataModule:
    data = ImageDataModule(data_dir=tmp_path_factory.mktemp("data"), source="bundled", clusters=32)
    data.setup()
    return data


@pytest.mark.slow
def test_clusters_have_about_equal_size(digits):
    assert digits.num_classes == 32
    counts = torch.bincount(digits.labels("train"), minlength=32)
    assert counts.sum() == 4_000
    assert counts.min() >= 0.75 * 125 and counts.max() <= 1.25 * 125
    plain = MiniBatchKMeans(32, random_state=0, n_init=1).fit_predict(
        digits.pixels("train").flatten(1).numpy()
    )
    assert torch.bincount(torch.from_numpy(plain).long()).max() > 1.6 * 125  # without balancing


@pytest.mark.slow
def test_images_of_a_cluster_are_similar_and_mostly_one_digit(digits, tmp_path):
    """Compare with the labels, which the clustering has not used, and with chance."""
    plain = ImageDataModule(data_dir=digits.data_dir, source="bundled")
    plain.setup()
    own, clusters = plain.labels("test"), digits.labels("test")
    assert torch.equal(plain.pixels("test"), digits.pixels("test"))
    right = sum(torch.bincount(own[clusters == k]).max().item() for k in clusters.unique())
    assert right / len(own) > 0.6  # the most frequent digit alone: about 0.12
    x = digits.pixels("train").float().flatten(1) / 255
    within = torch.stack([x[digits.labels("train") == k].var(0).sum() for k in range(32)]).mean()
    assert within < 0.7 * x.var(0).sum()


def test_the_smaller_of_two_clusters_takes_the_images_in_between():
    generator = torch.Generator().manual_seed(0)
    brightness = torch.cat([80 + 30 * torch.randn(300, generator=generator),
                            160 + 30 * torch.randn(100, generator=generator)])  # fmt: skip
    images = brightness.clamp(0, 255).to(torch.uint8)[:, None, None, None].expand(-1, 1, 2, 2)
    of = Clusters(images, 2)(images)
    bright = images[:, 0, 0, 0][of == of[brightness.argmax()]]
    dark = images[:, 0, 0, 0][of == of[brightness.argmin()]]
    assert dark.max() < bright.min()
    assert 150 <= len(bright) <= 250  # by distance alone about 110


@pytest.mark.parametrize("count", [0, 1, -2, True])
def test_a_count_below_two_is_rejected(count):
    with pytest.raises(UserError, match="at least 2"):
        Clusters(torch.zeros(100, 1, 4, 4, dtype=torch.uint8), count)


def test_too_few_images_are_rejected_with_the_largest_count():
    with pytest.raises(UserError, match=r"at most data\.clusters=15"):
        Clusters(torch.zeros(31, 1, 4, 4, dtype=torch.uint8), 16)


@pytest.mark.slow
def test_clusters_have_no_agreement_score_and_a_short_guidance_figure(tmp_path, command):
    trained = command(
        "train", "model=flow", "data.source=bundled", "data.clusters=20", "model.num_classes=20",
        "network.width=4", "network.depth=1", "trainer.max_steps=1", "callbacks=minimal",
        f"paths.data_dir={tmp_path}",
    )  # fmt: skip
    assert trained.returncode == 0, trained.stderr
    run = trained.stdout.strip().splitlines()[-1]
    scored = command("evaluate", f"run={run}", "num_samples=80", "seeds=1", "sampler.num_steps=1")
    assert scored.returncode == 0, scored.stderr
    assert "agreement" not in scored.stdout and "confidence" in scored.stdout

    drawn = command("sample", f"run={run}", "num_samples=20", "sampler.num_steps=1")
    assert drawn.returncode == 0, drawn.stderr
    out = Path(drawn.stdout.strip().splitlines()[-1])
    with np.load(out / "samples.npz") as arrays:
        assert arrays["clusters"].tolist() == [*range(20)] and "labels" not in arrays
    # nor if the images are scored without the run
    images = command("evaluate", f"images={out}/samples.npz", "extractor=mnist_v1")
    assert images.returncode == 0, images.stderr
    assert "agreement" not in images.stdout and "confidence" in images.stdout
    with Image.open(out / "guidance.png") as picture:  # the first 16 of possibly hundreds
        sixteen = picture.height
    of_eight = command(
        "sample", f"run={run}", "labels=0,1,2,3,4,5,6,7", "num_samples=8", "sampler.num_steps=1"
    )
    told = "clusters of similar images, not classes of the data"
    assert told in of_eight.stdout and told not in drawn.stdout
    with Image.open(of_eight.stdout.strip().splitlines()[-1] + "/guidance.png") as picture:
        assert sixteen == pytest.approx(2 * picture.height, rel=0.1)
