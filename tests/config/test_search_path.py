"""Options in ./configs of the working folder: no flag needed, the package's names come first."""

import logging

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from diffusion_lab import compose_config
from diffusion_lab.config.groups import chosen_sampler_word, make_sampler, sampler_word
from diffusion_lab.config.search_path import CONFIG_DIR, options, read_option
from diffusion_lab.diffusion import HeunSampler
from diffusion_lab.errors import UserError

PACKAGE = sorted(path.stem for path in (CONFIG_DIR / "sampler").glob("*.yaml"))


@pytest.fixture
def work(tmp_path, monkeypatch):
    """A working folder with a sampler of its own, and one of the name of the package's."""
    folder = tmp_path / "configs" / "sampler"
    folder.mkdir(parents=True)
    (folder / "mine.yaml").write_text("defaults: [heun]\nnum_steps: 3\n")
    (folder / "ddim.yaml").write_text("_target_: diffusion_lab.diffusion.BlendSampler\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(HydraConfig.instance(), "cfg", None)  # `--cfg` leaves its own
    return tmp_path


def test_an_option_of_the_working_folder_composes_and_builds(work):
    assert options("sampler") == sorted([*PACKAGE, "mine"])
    cfg = compose_config(["sampler=mine"])
    assert cfg.sampler._target_.endswith(".HeunSampler") and cfg.sampler.num_steps == 3
    assert isinstance(make_sampler("mine"), HeunSampler)
    assert make_sampler("mine", num_steps=7).num_steps == 7
    assert sampler_word(OmegaConf.to_container(cfg.sampler)) == "mine"


def test_the_packages_option_wins_and_the_other_is_told_of(work, caplog):
    with caplog.at_level(logging.WARNING):
        cfg = compose_config(["sampler=ddim"])
    assert cfg.sampler.scheduler == "DDIMScheduler"
    assert read_option("sampler", "ddim")["scheduler"] == "DDIMScheduler"
    [record] = caplog.records
    hidden = work / "configs" / "sampler" / "ddim.yaml"
    line = f"{hidden} is not used, because sampler=ddim selects {CONFIG_DIR}"
    assert record.getMessage().startswith(line)


def test_a_command_reads_its_config_dir_too(work, typed):
    (work / "more" / "sampler").mkdir(parents=True)
    (work / "more" / "sampler" / "other.yaml").write_text("defaults: [mine]\nnum_steps: 4\n")
    for name, steps in (("mine", 3), ("other", 4)):
        words = ("--config-dir=more", f"sampler={name}", "--cfg", "job", "--package", "sampler")
        code, out, err = typed("train", *words)
        assert code == 0 and f"num_steps: {steps}" in out, err
    code, out, err = typed("train", "sampler=othr", "--config-dir=more")
    assert code == 2 and "did you mean other" in err


def test_without_such_a_folder_there_are_the_packages_options(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert options("sampler") == PACKAGE


def test_the_search_path_of_another_program_is_left_alone(work, tmp_path):
    compose_config()  # registers the plug-in
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "main.yaml").write_text("a: 1\n")
    with initialize_config_dir(str(tmp_path / "theirs"), version_base="1.3"):
        assert compose("main", ["+sampler=mine"]).sampler == "mine"  # a value, as there is no group


def test_an_option_made_of_another_group_is_rejected(work):
    (work / "configs" / "sampler" / "odd.yaml").write_text("defaults: [{/network: unet_fast}]\n")
    with pytest.raises(UserError, match="expected names of other sampler options"):
        read_option("sampler", "odd")
    with pytest.raises(UserError, match=r"there is no sampler/nothing\.yaml"):
        read_option("sampler", "nothing")


def test_a_broken_file_is_named_and_disturbs_no_other_option(work):
    (work / "configs" / "sampler" / "bad.yaml").write_text("num_steps: 3\n  a: 2\n")
    with pytest.raises(UserError, match=r"configs/sampler/bad\.yaml, line 2: mapping values"):
        read_option("sampler", "bad")
    assert sampler_word(read_option("sampler", "mine")) == "mine"


def test_the_chosen_option_is_named_even_if_another_has_the_same_settings(work, monkeypatch):
    config = read_option("sampler", "mine") | {"num_steps": 20}
    assert sampler_word(config) == "heun"
    runtime = {"choices": {"sampler": "mine"}, "config_sources": [], "cwd": str(work)}
    chosen = OmegaConf.create({"hydra": {"runtime": runtime}})
    monkeypatch.setattr(HydraConfig.instance(), "cfg", chosen)
    assert chosen_sampler_word(config) == "mine"
    assert chosen_sampler_word(read_option("sampler", "ddim")) == "ddim"
