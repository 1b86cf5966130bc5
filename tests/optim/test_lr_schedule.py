"""Against torch's own schedulers, step by step."""

import pytest
import torch
from torch.optim.lr_scheduler import CosineAnnealingLR, OneCycleLR

from diffusion_lab.errors import UserError
from diffusion_lab.optim.lr_schedule import Constant, Cosine, OneCycle

STEPS = 40


def torch_factors(make):
    optimizer = torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = make(optimizer)
    factors = []
    for _ in range(STEPS):
        factors.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return factors


def test_cosine_is_torchs():
    theirs = torch_factors(lambda o: CosineAnnealingLR(o, T_max=STEPS, eta_min=0.1))
    assert [Cosine(final=0.1)(i / STEPS) for i in range(STEPS)] == pytest.approx(theirs)


def test_one_cycle_is_torchs():
    # torch puts its peak at step pct_start * total - 1 and its end at total - 1
    total, peak = STEPS, 0.25
    theirs = torch_factors(lambda o: OneCycleLR(o, max_lr=1.0, total_steps=total, pct_start=peak))
    last, top = total - 1, peak * total - 1
    ours = [OneCycle(peak=top / last)(i / last) for i in range(total)]
    assert ours == pytest.approx(theirs)


def test_warmup_rises_in_a_line_and_meets_the_cosine():
    schedule = Cosine(warmup=0.2)
    assert [schedule(p) for p in (0, 0.05, 0.1, 0.2)] == pytest.approx([0, 0.25, 0.5, 1])
    assert schedule(1.0) == pytest.approx(0)
    assert Constant()(0.7) == 1


@pytest.mark.parametrize("make", [lambda: Cosine(warmup=1.5), lambda: OneCycle(peak=0)])
def test_impossible_settings_are_refused(make):
    with pytest.raises(UserError, match="expected"):
        make()
