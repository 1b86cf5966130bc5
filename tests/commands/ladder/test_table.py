"""Results of a ladder: verdicts paired by seed, the table and the figure."""

import numpy as np
import pytest
import torch
from scipy import stats

from diffusion_lab.commands.ladder.figure import LadderRow, ladder_figure
from diffusion_lab.commands.ladder.table import Scored, lines, summarise_rungs
from tests.commands.ladder.test_ladder import rungs


def score(seed, fid):
    return Scored(seed, {"fid": fid, "kid": fid / 100}, 20.0, 1000, 1.0, 1.0)


def test_tests_are_paired_by_seed_and_holm_corrected():
    ladder = rungs()[:4]
    fids = [[90, 100, 110], [50, 61, 70], [49, 62, 69], []]
    scored = {k: [score(s, f) for s, f in enumerate(row)] for k, row in enumerate(fids)}
    results = summarise_rungs(ladder, scored, [{}] * 4)
    p = [stats.ttest_rel(fids[1], fids[0]).pvalue, stats.ttest_rel(fids[2], fids[1]).pvalue]
    assert results[1].p_holm == pytest.approx(min(2 * p[0], 1)) and p[0] < 0.001
    assert results[2].p_holm == pytest.approx(p[1])
    verdicts = [result.verdict for result in results]
    assert verdicts == ["", "better", "no significant difference", "not measured"]
    # only the seeds of both rungs count, in any order
    scored[1] = [score(2, 70), score(0, 50)]
    [_, second, *_] = summarise_rungs(ladder, scored, [{}] * 4)
    assert second.difference.difference == pytest.approx(np.mean([50 - 90, 70 - 110]))
    table = lines(results, {"fid": results[0].summary["fid"]})
    assert "100 ± 10" in table[1] and "better" in table[2] and "not measured" in table[4]


def test_a_difference_without_spread_is_not_tested():
    scored = {0: [score(0, 2), score(1, 3)], 1: [score(0, 1), score(1, 2)]}
    results = summarise_rungs(rungs()[:2], scored, [{}] * 2)
    assert results[1].verdict == "not tested: no spread over seeds"


def test_the_figure_shows_all_measured_rungs(tmp_path):
    images = torch.rand(4, 1, 28, 28)
    rows = [
        LadderRow("0 toy", [180.0, 190.0], (120.0, 250.0), images),
        LadderRow("1 gone", [], None, None),
        LadderRow("2 one", [20.0], None, images),
    ]
    figure = ladder_figure(rows, 2.0)
    plot = figure.axes[0]
    assert plot.get_yscale() == "log" and len(figure.axes) == 3
    points = [p for line in plot.lines if line.get_marker() == "o" for p in line.get_ydata()]
    assert points == [180.0, 190.0, 20.0]
    assert ladder_figure(rows[2:], 15.0).axes[0].get_yscale() == "linear"
    with pytest.raises(ValueError, match="at least one rung"):
        ladder_figure([], 2.0)
    with pytest.raises(ValueError, match="one shape"):
        ladder_figure([rows[0], LadderRow("1", [1.0], None, images[:2])], 2.0)
