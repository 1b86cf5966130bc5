"""The code of a network in an exported folder: whole, and without this project."""

import re
import types

import pytest
import torch

from diffusion_lab.errors import UserError
from diffusion_lab.export.network_source import network_source
from diffusion_lab.networks import BasicUNet, UNet2D
from tests.export.test_export import dit, fast, mlp


def load(source, name):
    """Run source code as a module without this project."""
    assert not re.search(r"^\s*(from|import) diffusion_lab", source, re.MULTILINE)
    module = types.ModuleType(name)
    exec(compile(source, name, "exec"), module.__dict__)
    return module


@pytest.mark.parametrize("make", [dit, mlp, fast, lambda **_: BasicUNet(image_size=16)])
def test_the_code_alone_makes_the_same_network(make):
    network = make(num_classes=3)
    alone = getattr(load(network_source(network), "alone"), type(network).__name__)
    copied = alone(**{k: v for k, v in network.config.items() if not k.startswith("_")})
    copied.load_state_dict(network.state_dict())
    x, time, labels = torch.randn(2, 1, 16, 16), torch.tensor([1.0, 900]), torch.tensor([0, 3])
    assert torch.equal(copied(x, time, labels), network(x, time, labels))
    if alone.__name__ != "MLP":  # which takes every size
        with pytest.raises(ValueError, match="nearest possible"):
            alone(image_size=15)


@pytest.mark.parametrize("line", ["_SINUSOIDS = 32", "from math import exp as zeroed"])
def test_a_name_of_an_imported_file_is_not_overwritten(line, tmp_path, monkeypatch):
    """The code of both files becomes one module, in which the later definition would count."""
    code = f"from diffusion_lab.networks.mlp import MLP\n{line}\n\nclass Own(MLP):\n    pass\n"
    name = f"clash{len(line)}_net"
    (tmp_path / f"{name}.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match=r"(_SINUSOIDS|zeroed) is defined by .* rename one"):
        network_source(__import__(name).Own())


def test_a_network_of_diffusers_needs_no_code():
    assert network_source(UNet2D().unet) is None


FILES = {
    "own": "from diffusion_lab.networks.mlp import MLP\n\nclass Own(MLP):\n    pass\n",
    "sampling": "from diffusion_lab.sampling.draw import draw\n\nclass Own:\n    pass\n",
    "renamed": "from diffusion_lab.networks.mlp import MLP as Old\n\nclass Own(Old):\n    pass\n",
    "both": "from diffusion_lab.errors import UserError, unknown_name\n\nclass Own:\n    pass\n",
    "inside": "class Own:\n    def f(self):\n        from diffusion_lab.networks import MLP\n",
}


@pytest.mark.parametrize("name", FILES)
def test_files_of_a_user(name, tmp_path, monkeypatch):
    """Networks may be imported as they are; anything else of the project may not."""
    (tmp_path / f"{name}_net.py").write_text(FILES[name])
    monkeypatch.syspath_prepend(tmp_path)
    own = __import__(f"{name}_net").Own()
    if name == "own":
        assert load(network_source(own), "alone").Own().config.width == 128
        return
    with pytest.raises(UserError, match=r"Own cannot be exported: .* imports diffusion_lab"):
        network_source(own)
