"""Files that somebody made to harm: nothing of theirs runs, fills the memory or is written."""

import os
import pickle
import zipfile
from pathlib import Path

import pytest
import torch

from diffusion_lab import load_run
from diffusion_lab.config.trusted import trusted
from diffusion_lab.errors import UserError


class Payload:
    """Runs a command when it is unpickled."""

    def __init__(self, ran: Path) -> None:
        self.ran = ran

    def __reduce__(self):
        return os.system, (f"touch {self.ran}",)


@pytest.fixture
def ran(tmp_path):
    """The file that a payload leaves."""
    path = tmp_path / "ran"
    pickle.loads(pickle.dumps(Payload(path)))
    assert path.exists()  # it is a real one
    path.unlink()
    return path


def run_with(tmp_path, run_dir, *, legacy=False, **changes):
    """A copy of a run whose checkpoint has other content; -> its folder."""
    state = torch.load(run_dir / "checkpoints/last.ckpt", weights_only=True)
    folder = tmp_path / "run"
    (folder / "checkpoints").mkdir(parents=True)
    path = folder / "checkpoints/last.ckpt"
    torch.save(state | changes, path, _use_new_zipfile_serialization=not legacy)
    return folder


def config_of(run_dir):
    return torch.load(run_dir / "checkpoints/last.ckpt", weights_only=True)["config"]


def commands(run_dir, tmp_path):
    """Everything that reads a run."""
    return {
        "sample": (f"run={run_dir}", f"out={tmp_path / 'sampled'}", "num_samples=2"),
        "export": (f"run={run_dir}", f"out={tmp_path / 'exported'}"),
        "edit": (
            f"run={run_dir}",
            "edit=invert",
            "images=train:0",
            "num_steps=2",
            f"out={tmp_path / 'edited'}",
        ),
    }


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("where", ["config", "state_dict", "ema", "callbacks"])
def test_a_checkpoint_that_carries_code_is_refused(trained, typed, tmp_path, ran, where, legacy):
    folder = run_with(tmp_path, trained["ddpm"], legacy=legacy, **{where: Payload(ran)})
    for name, words in commands(folder, tmp_path).items():
        code, _, err = typed(name, *words)
        [line] = err.strip().splitlines()
        assert code == 2 and "last.ckpt is damaged or was not written by this project" in line
    assert not ran.exists()
    assert not any((tmp_path / out).exists() for out in ("sampled", "exported", "edited"))


def test_a_pipeline_whose_weights_carry_code_is_refused(typed, tmp_path, runs, ran):
    folder = tmp_path / "pipeline"
    code, _, err = typed("export", f"run={runs['stock']}", f"out={folder}")
    assert code == 0, err
    (folder / "unet/diffusion_pytorch_model.safetensors").unlink()
    torch.save({"weight": Payload(ran)}, folder / "unet/diffusion_pytorch_model.bin")
    code, _, err = typed("sample", f"pipeline={folder}", f"out={tmp_path / 'sampled'}")
    assert code == 2 and "unet cannot be read" in err.strip().splitlines()[-1]
    assert not ran.exists()


@pytest.mark.parametrize("part", ["model", "sampler", "data"])
def test_no_part_of_a_saved_configuration_names_foreign_code(
    trained, typed, tmp_path, monkeypatch, ran, part
):
    """Nor is what it names imported."""
    (tmp_path / "evil.py").write_text(f"open({str(ran)!r}, 'w')\n")
    monkeypatch.syspath_prepend(tmp_path)
    config = config_of(trained["ddpm"])
    config[part] |= {"_target_": "evil.run"}
    folder = run_with(tmp_path, trained["ddpm"], config=config)
    refused = 0
    for name, words in commands(folder, tmp_path).items():
        code, _, err = typed(name, *words)
        if code:
            refused += 1
            [line] = err.strip().splitlines()
            assert "names evil.run" in line and "trust=[evil]" in line
    assert refused == {"model": 3, "sampler": 2, "data": 1}[part]  # those that use that part
    assert not ran.exists()


@pytest.mark.parametrize(
    "name",
    [
        "os.system",
        "diffusion_lab.cli.os.system",
        "diffusion_lab.networks.unet2d.torch.load",
        "diffusion_lab.networks:unet2d.torch.load",
        "diffusion_lab.diffusion.editing.inpaint.__globals__.get",
        "diffusion_lab.diffusion.editing.inpaint.__globals__",
        "diffusion_lab.modules.DiffusionModule.load_from_checkpoint",
        "diffusion_lab.modules.DiffusionModule.__class__",
        "diffusion_lab.data.datamodule.fetch_images",
        "diffusion_lab.data.datamodule.Path",
        "diffusion_lab.data.mnist.bundled._write",
        "diffusion_lab.networkses.Evil",
        "diffusion_lab.networks..",
        "diffusion_lab.networks.",
        "",
    ],
)
def test_a_name_that_is_not_one_of_the_parts(name):
    with pytest.raises(UserError) as raised:
        trusted(name)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("model", {}),
        ("model", {"_target_": "diffusion_lab.diffusion.BlendSampler", "num_steps": 2}),
        ("model", {"_target_": "diffusion_lab.modules.DiffusionModule"}),
        ("data", {}),
        ("data", {"value_range": "none", "channels": 1, "image_size": 28}),
        ("sampler", None),
        ("command", "x"),
    ],
)
def test_a_configuration_that_makes_no_sense_is_refused(trained, tmp_path, part, value):
    config = config_of(trained["ddpm"]) | {part: value}
    with pytest.raises(UserError) as raised:
        load_run(run_with(tmp_path, trained["ddpm"], config=config))
    assert "\n" not in str(raised.value)


def test_a_checkpoint_does_not_unpack_to_more_than_it_is(trained, tmp_path):
    """torch reads a file that is packed, which it never writes."""
    folder = run_with(tmp_path, trained["ddpm"], more=torch.zeros(10_000_000))
    path = folder / "checkpoints/last.ckpt"
    load_run(folder)
    with zipfile.ZipFile(path) as archive:
        entries = {entry.filename: archive.read(entry) for entry in archive.infolist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
    assert torch.load(path, weights_only=True)["more"].numel() == 10_000_000
    with pytest.raises(UserError, match=r"damaged .* \(ValueError: its zip entries"):
        load_run(folder)


def test_nothing_is_written_outside_the_folder_given(trained, typed, tmp_path):
    """Whatever the run says of names and places."""
    config = config_of(trained["ddpm"])
    escape = str(tmp_path / "escape" / ".." / "escaped")
    config["paths"] = dict.fromkeys(config["paths"], escape)
    config["data"] |= {"data_dir": escape}
    config["command"]["choices"] = dict.fromkeys(config["command"]["choices"], "../../escaped")
    config["command"]["overrides"] = ["hydra.run.dir=../../escaped"]
    for callback in filter(None, config["callbacks"].values()):
        callback |= {"dirpath": escape}
    folder = run_with(tmp_path, trained["ddpm"], config=config)
    before = set(tmp_path.rglob("*"))
    for name, words in commands(folder, tmp_path).items():
        code, _, err = typed(name, *words)
        assert code == 0, err
    made = {path.relative_to(tmp_path).parts[0] for path in set(tmp_path.rglob("*")) - before}
    assert made == {"sampled", "exported", "edited"}
