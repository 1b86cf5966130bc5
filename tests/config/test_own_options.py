"""Mistakes in the user's own YAML files and modules, told in one line."""

import sys

import pytest

from diffusion_lab.config.trusted import check_parts
from diffusion_lab.errors import UserError
from tests.cli.test_bad_input import assert_refused

NETS = """
from torch import nn

VERSION = 3


class Net(nn.Module):
    def __init__(self, width, depth=1):
        super().__init__()


class Wrong(nn.Linear):
    def __init__(self):
        super().__init__(28, 3)

    def forward(self, x, time, labels=None):
        return super().forward(x)


class Fails(nn.Module):
    def __init__(self):
        {}["nothing"]
"""
NETWORKS = {
    "indented": "_target_: own_nets.Net\n  width: 3\n",
    "tab": "_target_: own_nets.Net\n\twidth: 3\n",
    "twice": "_target_: own_nets.Net\nwidth: 3\nwidth: 4\n",
    "constant": "_target_: own_nets.VERSION\n",
    "incomplete": "_target_: own_nets.Net\n",
    "failing": "_target_: own_nets.Fails\n",
    "wrong": "_target_: own_nets.Wrong\n",
    "hidden": "_target_: sched.Net\n",
}


@pytest.fixture
def work(tmp_path, monkeypatch):
    """A working folder with modules and options of the user's."""
    (tmp_path / "own_nets.py").write_text(NETS)
    (tmp_path / "sched.py").write_text(NETS)
    for group in ("network", "data"):
        (tmp_path / "configs" / group).mkdir(parents=True)
    for name, text in NETWORKS.items():
        (tmp_path / "configs" / "network" / f"{name}.yaml").write_text(text)
    (tmp_path / "configs" / "data" / "sizeless.yaml").write_text(
        "name: mine\nchannels: 1\nimage_size: ???\n"
    )
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield
    sys.modules.pop("own_nets", None)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("network=indented", "configs/network/indented.yaml, line 2: mapping values"),
        ("network=tab", "configs/network/tab.yaml, line 2: found character '\\t'"),
        ("network=twice", "configs/network/twice.yaml, line 3: found duplicate key width"),
        (
            "network=constant",
            "own_nets.VERSION cannot be used: it is the value 3",
        ),
        (
            "network=incomplete",
            "own_nets.Net needs an argument width: add the line width: <value> to",
        ),
        ("network=failing", "own_nets.Fails failed at own_nets.py:22: KeyError: 'nothing'"),
        ("network=hidden", "sched is a module of Python itself, not your sched.py: rename"),
        ("network=incomplete network.wdith=3", "did you mean ++network.width=3?"),
        ("data=sizeless", "data.image_size is missing: type data.image_size=<value>"),
        ("data.rezise=crop", "data.rezise is unknown: did you mean data.resize=crop?"),
    ],
)
def test_a_mistake_in_an_own_option_is_told_in_one_line(work, typed, words, told):
    assert_refused(typed("train", "model=flow", *words.split()), told)


def test_explain_checks_the_contract_of_an_own_network_first(work, typed):
    words = ("explain", "model=flow", "data=fake", "network=wrong")
    assert_refused(
        typed(*words), "own_nets.Wrong: forward gives the shape", "expected (3, 1, 28, 28)"
    )


def test_all_packages_to_trust_are_named_at_once():
    model = {"network": {"_target_": "nets.Net"}, "weighting": {"_target_": "parts.Even"}}
    sampler = {"_target_": "parts.Walk"}
    with pytest.raises(UserError, match=r"names nets\.Net.*trust=\[nets,parts,own_data\]"):
        check_parts(model, [model, sampler, {"images": {"_target_": "own_data.read"}}], ())
    check_parts(model, [model, sampler], ["nets", "parts"])
    foreign = {"_target_": "diffusion_lab.system.atomic.replacing"}
    with pytest.raises(UserError, match="do not use this configuration"):
        check_parts([model, foreign], [model, foreign], ())
