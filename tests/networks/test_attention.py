"""Attention of narrow heads on a CPU: outputs and gradients match torch's."""

import copy
from itertools import groupby

import pytest
import torch
import torch.nn.functional as F
from diffusers.models.attention_processor import AttnProcessor2_0

from diffusion_lab.networks.attention import Attend, NarrowHeads
from diffusion_lab.networks.unet2d import UNet2D


@pytest.mark.parametrize(("length", "width"), [(196, 8), (49, 8), (7, 3)])
def test_attention_in_parts_matches_torch(length, width, monkeypatch):
    monkeypatch.setattr("diffusion_lab.networks.attention._SCORES", 3 * length**2 * 8)
    torch.manual_seed(0)
    ours = [torch.randn(10, width, length, dtype=torch.float64).requires_grad_() for _ in range(3)]
    theirs = [x.detach().clone().requires_grad_() for x in ours]
    out, expected = Attend.apply(*ours), F.scaled_dot_product_attention(*(x.mT for x in theirs)).mT
    torch.testing.assert_close(out, expected)
    weights = torch.randn_like(out)
    (out * weights).sum().backward()
    (expected * weights).sum().backward()
    for mine, its in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine.grad, its.grad)


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize(("length", "width", "size"), [(196, 8, 1), (196, 8, 3), (49, 32, 3)])
def test_bfloat16_is_as_accurate_as_torch(length, width, size, autocast):
    """Compare output and gradients with float32; `size` sharpens the softmax."""
    torch.manual_seed(0)
    inputs = [torch.randn(16, width, length) * scale for scale in (size, size, 1)]
    inputs = [x.bfloat16().float() for x in inputs]
    weights = torch.randn(16, width, length).bfloat16()

    def theirs(*qkv):
        return F.scaled_dot_product_attention(*(x.mT.contiguous()[None] for x in qkv))[0].mT

    def found(attend, dtype):
        qkv = [x.to(dtype, copy=True).requires_grad_() for x in inputs]
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast and dtype == torch.bfloat16):
            out = attend(*qkv)
        assert out.dtype == dtype
        out.backward(weights.to(dtype))
        return [x.detach().float() for x in (out, *(x.grad for x in qkv))]

    exact = found(theirs, torch.float32)
    ours, torchs = found(Attend.apply, torch.bfloat16), found(theirs, torch.bfloat16)
    for name, one, other, right in zip("oqkv", ours, torchs, exact, strict=True):
        assert 0 < (one - right).norm() < 1.5 * (other - right).norm(), name


def test_gradients_match_finite_differences():
    torch.manual_seed(0)
    inputs = tuple(torch.randn(2, 3, 5, dtype=torch.float64).requires_grad_() for _ in range(3))
    assert torch.autograd.gradcheck(Attend.apply, inputs)


def nets():
    """Return a UNet2D with this attention and one with diffusers', with equal weights."""
    torch.manual_seed(0)
    ours = UNet2D(block_out_channels=(8, 16, 16), norm_num_groups=4)
    theirs = copy.deepcopy(ours)
    quick = [m for m in theirs.modules() if isinstance(getattr(m, "processor", None), NarrowHeads)]
    assert len(quick) == 11
    for module in quick:
        module.set_processor(AttnProcessor2_0())
    return ours, theirs


X, TIME = torch.randn(3, 1, 28, 28), torch.tensor([1.0, 500.0, 999.0])


def gradients(net, out):
    out.float().square().mean().backward()
    return {name: p.grad.clone() for name, p in net.named_parameters()}


def test_unet2d_matches_diffusers():
    ours, theirs = nets()
    mine, its = ours(X, TIME), theirs(X, TIME)
    torch.testing.assert_close(mine, its)
    with torch.inference_mode():
        torch.testing.assert_close(ours(X, TIME), its.detach())
    expected = gradients(theirs, its)
    for name, grad in gradients(ours, mine).items():
        torch.testing.assert_close(grad, expected[name], rtol=1e-3, atol=1e-6, msg=name)


def test_unet2d_in_bfloat16_is_as_accurate_as_diffusers():
    """Compare output and gradients with float32."""
    ours, theirs = nets()
    exact = theirs(X, TIME)
    right = gradients(theirs, exact)
    theirs.zero_grad()
    with torch.autocast("cpu", torch.bfloat16):
        mine, its = ours(X, TIME), theirs(X, TIME)
    assert 0 < (mine.float() - exact).norm() < 2 * (its.float() - exact).norm()
    expected = gradients(theirs, its)
    for name, grad in gradients(ours, mine).items():
        error = (expected[name] - right[name]).norm()
        assert (grad - right[name]).norm() < 2 * error + 1e-3, name


@pytest.mark.parametrize(("size", "lengths"), [(28, [196, 49, 196]), (64, [256])])
def test_long_sequences_use_torchs_kernel(size, lengths, monkeypatch):
    """64 x 64 images have 1,024 pixels at the second level."""
    seen = []
    apply = Attend.apply
    monkeypatch.setattr(Attend, "apply", lambda *qkv: seen.append(qkv[0].shape[2]) or apply(*qkv))
    ours, _ = nets()
    ours(torch.zeros(1, 1, size, size), torch.zeros(1))
    assert [length for length, _ in groupby(seen)] == lengths


@pytest.mark.slow
def test_export_with_a_dynamic_batch_size():
    """The split depends on the batch size, so an export uses diffusers' attention."""
    ours, theirs = nets()
    batch = torch.export.Dim("batch", max=63)  # from 64 on diffusers' upsampling makes a copy
    with torch.no_grad():
        program = torch.export.export(
            ours.eval(), (X, TIME), dynamic_shapes=({0: batch}, {0: batch})
        )
    x, time = torch.randn(5, 1, 28, 28), torch.arange(5) * 100.0
    torch.testing.assert_close(program.module()(x, time), theirs(x, time))
