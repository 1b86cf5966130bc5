import copy

import pytest
import torch

from diffusion_lab.errors import UserError
from diffusion_lab.networks.fast_unet import FastUNet
from diffusion_lab.optim.muon import Muon, orthogonalized


def with_gradients(*shapes, seed=0):
    generator = torch.Generator().manual_seed(seed)
    parameters = [torch.nn.Parameter(torch.randn(s, generator=generator)) for s in shapes]
    for p in parameters:
        p.grad = torch.randn(p.shape, generator=generator)
    return parameters


@pytest.mark.parametrize("shape", [(3, 24, 60), (2, 60, 24), (1, 32, 32), (2, 24, 96), (2, 96, 24)])
def test_the_update_has_the_singular_vectors_of_the_matrix_and_values_near_one(shape):
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    update = orthogonalized(matrices)
    u, s, vh = torch.linalg.svd(matrices.double(), full_matrices=False)
    # in the matrix's own singular vectors the update is diagonal
    inside = u.mT @ update.double() @ vh.mT
    diagonal = inside.diagonal(dim1=1, dim2=2)
    off = inside - torch.diag_embed(diagonal)
    assert off.abs().max() < 1e-4
    large = s > 0.1 * s.amax(1, keepdim=True)
    assert (diagonal[large] > 0.6).all() and (diagonal < 1.25).all()


def test_two_steps_on_a_matrix_are_torchs_muon():
    """torch's works on plain matrices in bfloat16, so to its rounding."""
    torchs = with_gradients((64, 32), (32, 48))
    ours = with_gradients((64, 32), (32, 48))
    begun = [p.detach().clone() for p in ours]
    reference = torch.optim.Muon(
        torchs, lr=0.02, weight_decay=0.01, momentum=0.95, adjust_lr_fn="original"
    )
    optimizer = Muon(ours, lr=0.02, weight_decay=0.01, momentum=0.95)
    for _ in range(2):
        reference.step()
        optimizer.step()
    for a, b, start in zip(torchs, ours, begun, strict=True):
        moved, expected = (b - start).detach().flatten(), (a - start).detach().flatten()
        assert torch.cosine_similarity(moved, expected, dim=0) > 0.99
        assert moved.norm() / expected.norm() == pytest.approx(1, abs=0.05)


SHAPES = [
    (64, 32),
    (32, 48),
    (16, 16),
    (48, 48),
    (24, 96),
    (96, 24),
    (32, 16, 3, 3),
    (64, 16, 1, 1),
]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_updates_are_torchs_muon_in_float32(shape, monkeypatch):
    """Torch's with its one conversion to bfloat16 left out; of a convolution's flattened matrix."""
    monkeypatch.setattr(torch.Tensor, "bfloat16", lambda self: self.clone())
    settings = {"lr": 0.02, "weight_decay": 0.01, "momentum": 0.95}
    (mine,) = with_gradients(shape)
    matrix = torch.nn.Parameter(mine.detach().flatten(1).clone())
    ours, torchs = Muon([mine], **settings), torch.optim.Muon([matrix], **settings)
    for step in range(3):
        mine.grad = torch.randn(shape, generator=torch.Generator().manual_seed(step))
        matrix.grad = mine.grad.flatten(1).clone()
        ours.step()
        torchs.step()
    torch.testing.assert_close(mine.flatten(1), matrix, rtol=1e-4, atol=1e-5)


def test_a_convolution_is_scaled_by_its_matrix_and_not_as_published():
    """The published code scales by the kernel's height over its width, which is 1 here."""
    (kernel,) = with_gradients((64, 16, 1, 1))
    before = kernel.detach().clone()
    Muon([kernel], lr=0.1, momentum=0.0, weight_decay=0.0).step()
    published = 0.1 * orthogonalized(kernel.grad.flatten(1)[None])[0]
    torch.testing.assert_close(
        before.flatten(1) - kernel.flatten(1), 2 * published
    )  # (64 / 16)^0.5


@pytest.mark.parametrize("shape", [(16, 16), (64, 64), (256, 256), (24, 60), (64, 576)], ids=str)
def test_singular_values_end_where_the_docstring_says(shape):
    count = 200 if shape[0] < 100 else 20
    matrices = torch.randn(count, *shape, generator=torch.Generator().manual_seed(0)).double()
    before = torch.linalg.svdvals(matrices) / torch.linalg.matrix_norm(matrices)[:, None]
    after = torch.linalg.svdvals(orthogonalized(matrices).double())
    large = before >= 0.0015
    assert after[large].min() >= 0.68 - 1e-3 and after.max() <= 1.21
    if shape[0] == shape[1]:
        assert 0.003 < (~large).float().mean() < 0.03 and after.min() < 0.1
        assert (after.amin(1) < 485 * before.amin(1) + 1e-4).all()
    else:
        assert large.all()


def test_a_convolution_moves_as_the_matrix_of_its_rows():
    (kernel,) = with_gradients((32, 16, 3, 3))
    (matrix,) = with_gradients((32, 144))
    with torch.no_grad():
        matrix.copy_(kernel.flatten(1))
        matrix.grad = kernel.grad.flatten(1).clone()
    kernel.data = kernel.data.contiguous(memory_format=torch.channels_last)
    for p in (kernel, matrix):
        Muon([p]).step()
    torch.testing.assert_close(kernel.flatten(1), matrix)


def test_matrices_of_one_shape_do_not_see_each_other():
    together = with_gradients((32, 48), (32, 48), (20, 20))
    alone = with_gradients((32, 48), (32, 48), (20, 20))
    Muon(together).step()
    for p in alone:
        Muon([p]).step()
    torch.testing.assert_close(together, alone)


def test_vectors_and_narrow_matrices_take_adamw_steps():
    shapes = ((40,), (11, 128), (4, 32, 3, 3))
    ours, torchs = with_gradients(*shapes), with_gradients(*shapes)
    optimizer = Muon(ours, adamw_lr=3e-3, betas=(0.9, 0.99), weight_decay=0.02)
    reference = torch.optim.AdamW(torchs, lr=3e-3, betas=(0.9, 0.99), weight_decay=0.02)
    for step in range(5):
        for p, q in zip(ours, torchs, strict=True):
            p.grad = q.grad = torch.randn(p.shape, generator=torch.Generator().manual_seed(step))
        optimizer.step()
        reference.step()
    torch.testing.assert_close(ours, torchs)


def test_a_saved_state_goes_on_as_if_it_had_never_stopped():
    def train(steps, network, optimizer):
        for step in range(steps):
            generator = torch.Generator().manual_seed(step)
            x = torch.randn(4, 1, 8, 8, generator=generator)
            optimizer.zero_grad()
            (network(x, torch.ones(4)) - x).square().mean().backward()
            optimizer.step()

    torch.manual_seed(0)
    network = FastUNet(width=16, depth=1, image_size=8)
    optimizer = Muon(network.parameters())
    train(2, network, optimizer)
    state = {k: v.clone() for k, v in network.state_dict().items()}
    saved = copy.deepcopy(optimizer.state_dict())
    second = FastUNet(width=16, depth=1, image_size=8)
    second.load_state_dict(state)
    resumed = Muon(second.parameters())
    resumed.load_state_dict(saved)
    train(3, network, optimizer)
    train(3, second, resumed)
    for a, b in zip(network.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(
    ("settings", "said"), [({"lr": -1}, "lr=-1"), ({"momentum": 1.0}, "momentum=1.0")]
)
def test_numbers_out_of_range_are_refused(settings, said):
    with pytest.raises(UserError, match=said):
        Muon(with_gradients((16, 16)), **settings)
