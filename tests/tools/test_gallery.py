"""Figure of several runs: each row has the run's own samples."""

import shutil

import pytest
import torch
from PIL import Image

from diffusion_lab import compose_config, load_run, train
from diffusion_lab.tools import gallery as module
from diffusion_lab.tools import race
from diffusion_lab.tools.gallery import gallery
from tests.conftest import TINY
from tests.support import forked


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gallery") / "classy"
    words = [*TINY, "model=flow", "network.width=8", "network.depth=1", "model.num_classes=10"]
    train(compose_config(words, folder))
    return folder


@pytest.mark.parametrize("settings", [{}, {"num_steps": 3, "guidance_scale": 2.0}])
def test_row_has_the_runs_samples(run_dir, settings, tmp_path, monkeypatch):
    rows = {}

    def keep(given, draw=module.figures.labelled_rows):
        rows.update(given)
        return draw(given)

    monkeypatch.setattr(module.figures, "labelled_rows", keep)
    gallery([run_dir], tmp_path / "out.png", num_samples=5, seed=3, **settings)
    ((name, images),) = rows.items()
    assert name == ("classy" if settings else "flow on StraightPath\nBlendSampler, 2")
    own = load_run(run_dir).sample(5, seed=3, **settings)
    torch.testing.assert_close(images, own.float() / 255)
    assert images.shape == (5, 1, 28, 28) and images.unique().numel() > 1


def test_folders_with_the_same_name_are_two_rows(run_dir, tmp_path, monkeypatch):
    rows = {}
    draw = module.figures.labelled_rows
    monkeypatch.setattr(module.figures, "labelled_rows", lambda r: rows.update(r) or draw(r))
    again = shutil.copytree(run_dir, tmp_path / "other" / "classy")
    gallery([run_dir, again], tmp_path / "out.png", num_samples=2, num_steps=2)
    assert list(rows) == ["classy", str(again)]


def test_similar_runs_are_labelled_by_folder(run_dir, tmp_path, monkeypatch):
    rows = {}
    draw = module.figures.labelled_rows
    monkeypatch.setattr(module.figures, "labelled_rows", lambda r: rows.update(r) or draw(r))
    again = shutil.copytree(run_dir, tmp_path / "another")
    gallery([run_dir, again], tmp_path / "out.png", num_samples=2)
    assert list(rows) == ["classy", "another"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["{runs}"], "is not a .png file"),
        (["out"], "for example out.png"),
        (["out.pdf"], "for example out.png"),
        (["/proc/nowhere/x.png"], "/proc/nowhere/x.png cannot be written"),
        (["/proc/x.png"], "/proc/x.png cannot be written"),
        (["{runs}/classy/hparams.yaml/x.png"], "x.png cannot be written"),
        (["x.png", "--num-steps", "0"], "--num-steps 0: expected at least 1"),
        (["x.png", "--num-samples", "-1"], "--num-samples -1"),
    ],
)
def test_mistakes_are_reported_before_sampling(run_dir, words, said, monkeypatch, capsys):
    monkeypatch.chdir(run_dir.parent)
    monkeypatch.setattr(module, "load_run", lambda *_, **__: pytest.fail("drawn"))
    out, *more = (word.format(runs=run_dir.parent) for word in words)
    monkeypatch.setattr("sys.argv", ["gallery", out, str(run_dir), *more])
    with pytest.raises(SystemExit, match="2"):
        module.main()
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and said in line
    if not more:
        monkeypatch.setattr("sys.argv", ["race", out, str(run_dir)])
        with pytest.raises(SystemExit, match="2"):
            race.main()
        assert said in capsys.readouterr().err


@pytest.mark.slow
def test_the_command(run_dir, tmp_path):
    made = forked.run("gallery", str(tmp_path / "out.png"), str(run_dir), "--num-steps", "2")
    assert made.returncode == 0, made.stderr
    assert made.stdout.strip() == str(tmp_path / "out.png")
    assert Image.open(tmp_path / "out.png").width > 400
    refused = forked.run("gallery", str(tmp_path / "out.png"), str(tmp_path))
    assert refused.returncode == 2
    assert refused.stderr.startswith("error: ") and len(refused.stderr.splitlines()) == 1
