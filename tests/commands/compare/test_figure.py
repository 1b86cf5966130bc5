"""Panels of compare.py: every value and interval is drawn."""

import math

import pytest

from diffusion_lab.commands.compare.figure import Panel, Spread, spread_panels


def test_panels_show_every_value_and_interval():
    rows = [Spread([1.0, 2.0], 1.5, -1.0, 4.0), Spread([3.0], 3.0, None, None)]
    figure = spread_panels(
        ["model=a, network.width=128, optimizer.lr=0.1", "b"], [Panel("fid", rows, 0.5)]
    )
    ax = figure.axes[0]
    plotted = [tuple(line.get_xdata()) for line in ax.lines if len(line.get_xdata())]
    for data in ((0.5, 0.5), (-1.0, 4.0), (1.0, 2.0), (1.5,), (3.0,)):
        assert data in [tuple(map(float, d)) for d in plotted]
    assert ax.get_yticklabels()[0].get_text().count("\n") == 1
    assert math.isclose(ax.get_ylim()[0], 1.5)  # the first row on top
    with pytest.raises(ValueError, match="row for every name"):
        spread_panels(["a"], [Panel("fid", rows)])
