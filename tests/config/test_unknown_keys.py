"""Options that do not exist: every leaf by its bare name, and what others call them."""

from dataclasses import fields

from omegaconf import OmegaConf

from diffusion_lab import compose_config
from diffusion_lab.config import schema
from diffusion_lab.config.schema import TrainConfig
from diffusion_lab.config.unknown_keys import _MOST, _OTHER_NAMES, unknown_option
from tests.support.forked import ROOT

TOP = {field.name for field in fields(TrainConfig)}


def leaves(node, path=()):
    for key, value in node.items():
        if isinstance(value, dict):
            yield from leaves(value, (*path, key))
        else:
            yield (*path, key)


def test_every_setting_is_found_by_its_bare_name():
    cfg = compose_config(["model=ddpm", "optimizer=muon", "callbacks=fid"])
    config = OmegaConf.to_container(cfg, resolve=False)
    full = [path for path in leaves(config) if path[0] != "command" and path[-1][0] != "_"]
    full = [path for path in full if not (path[0] == "model" and path[1] in TOP)]
    assert len(full) > 80
    for path in full:
        name = path[-1]
        namesakes = [other for other in full if other[-1] == name]
        if name in TOP or name in _OTHER_NAMES or len(namesakes) > _MOST:
            continue
        line = unknown_option(name, config, TOP, f"{name}=7")
        close = any(
            f"did you mean {top}=" in line for top in TOP
        )  # such as optimizers -> optimizer
        assert close or f"{'.'.join(path)}=7" in line, line


def test_what_others_call_an_option_leads_to_one_that_there_is():
    there = {name for name in dir(schema) if name.endswith("Config")}
    names = {f.name for config in there for f in fields(getattr(schema, config))}
    for file in (ROOT / "configs").rglob("*.yaml"):
        content = OmegaConf.to_container(OmegaConf.load(file))
        names |= {part for path in leaves(content) for part in path} if content else set()
    names |= {f.name for f in fields(schema.train.DataConfig)} | {"resume"}
    for other, meant in _OTHER_NAMES.items():
        assert set(meant) <= names, other
