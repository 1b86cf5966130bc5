"""README.md, docs/, --help: commands compose, tables name what exists, links lead somewhere."""

import re
import shlex
import string

import pytest
from omegaconf import OmegaConf

from diffusion_lab import compose_config
from tests.gpu_check import commands, correctness, speed  # noqa: F401  (they add their checks)
from tests.gpu_check.place import ALONE, BESIDE, HERE
from tests.support.forked import ROOT

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
DOCUMENTS = [*PAGES, ROOT / "RESULTS.md", ROOT / "CHANGELOG.md"]
GPU = (ROOT / "docs" / "gpu.md").read_text()
CONFIGURATION = (ROOT / "docs" / "configuration.md").read_text()
# extending.md brings the files that its own commands need, and a test that runs it
COMPOSED = [page for page in PAGES if page.name != "extending.md"]
HELPED = sorted((ROOT / "configs").glob("*.yaml"))  # whose --help shows commands, too
PAGE_OF = {
    line.partition(" #")[0].strip(): page.stem
    for page in [*COMPOSED, *HELPED]
    for line in re.findall(r"^(?: {8})?(python scripts/.*)$", page.read_text(), re.MULTILINE)
}
LINES = [pytest.param(line, id=f"{page}: {line}") for line, page in PAGE_OF.items()]
ROWS = {
    group: row
    for row in re.findall(r"^\| `\w+`.*\|$", CONFIGURATION, re.MULTILINE)
    for group in re.findall(r"`(\w+)`", row.split("|")[1])
    if (ROOT / "configs" / group).is_dir()
}
OWN = "experiment/mine.yaml"


def anchor(heading: str) -> str:
    """Return the name that GitHub gives to a heading."""
    kept = string.ascii_lowercase + string.digits + "-_ "
    return "".join(c for c in heading.lower() if c in kept).replace(" ", "-")


def test_documents_are_found():
    assert len(LINES) > 70 and len(ROWS) == 16


@pytest.fixture
def own_folder(tmp_path):
    """A folder with the recipe that docs/configuration.md shows."""
    (recipe,) = re.findall(r"```yaml\n(# @package _global_.*?)```", CONFIGURATION, re.DOTALL)
    (tmp_path / OWN).parent.mkdir()
    (tmp_path / OWN).write_text(recipe)
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize("line", LINES)
def test_commands_name_existing_scripts_and_options(line, own_folder, typed):
    line = re.sub(r"<[^>]*>", "x", line)
    script, *words = shlex.split(line, comments=True)[1:]
    assert (ROOT / script).is_file()
    name = script.removeprefix("scripts/").removesuffix(".py")
    if name in ("race", "gallery"):  # no options of Hydra
        return
    if name == "train":  # a run that there is not
        ways = ("resume=", "rerun=", "replay=", "debug=replay")
        words = [word for word in words if not word.startswith(ways)]
    if "--config-dir" in words:
        words[words.index("--config-dir") + 1] = str(own_folder)
    jobs = [words]
    if "-m" in words:
        words.remove("-m")
        choices = [word.partition("=") for word in words]
        values = [[f"{key}={value}" for value in many.split(",")] for key, _, many in choices]
        # every value once, with the last one of the shorter lists
        most = max(map(len, values))
        jobs = [[several[min(k, len(several) - 1)] for several in values] for k in range(most)]
    for job in jobs:
        if not {"--help", "--cfg"} & set(job):
            job += ["--cfg", "job"]  # print the composed configuration, run nothing
        code, out, err = typed(name, *job)
        assert (code, err) == (0, "") and len(out.splitlines()) > 5, job


@pytest.mark.parametrize("group", ROWS)
def test_rows_name_every_option_of_their_group(group):
    groups = [other for other in ROWS if ROWS[other] == ROWS[group]]
    there = {p.stem for other in groups for p in (ROOT / "configs" / other).glob("*.yaml")}
    named = set(re.findall(r"`(\w+)`", ROWS[group].split("|", 2)[2]))
    settings = {"adamw_lr", "num_steps"}
    assert named - settings == there


def test_settings_for_a_gpu_have_the_documented_defaults():
    rows = re.findall(r"^\| `([a-z0-9_.]+)` \| `(\S+)`.*\|$", GPU, re.MULTILINE)
    assert len(rows) == 8
    cfg = compose_config()
    for setting, default in rows:
        value = OmegaConf.select(cfg, setting)
        assert {True: "true", False: "false", None: "null"}.get(value, value) == default, setting


def test_results_have_a_row_for_every_gpu_check():
    results = (ROOT / "RESULTS.md").read_text()
    told = results.split("## On a GPU")[1].split("\n## ")[0]
    for check in (*BESIDE, *HERE, *ALONE):
        assert f"| {check.what} |" in told, check.what


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_documented_make_targets_exist(page):
    makefile = (ROOT / "Makefile").read_text()
    for target in set(re.findall(r"`make ([a-z-]+)", page.read_text())):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_options_in_the_text_exist(page):
    """`trainer.tf32=` and the like name a key of the training's configuration."""
    cfg = compose_config(["callbacks=fid"])
    for key in set(re.findall(r"`((?:trainer|data|model|optimizer)\.[\w.]+)=", page.read_text())):
        node, _, leaf = key.rpartition(".")
        assert leaf in OmegaConf.select(cfg, node) or key in EXTRA, key


EXTRA = {"optimizer.adamw_lr"}
"""Settings of other options of their groups."""


@pytest.mark.parametrize("page", DOCUMENTS, ids=lambda page: page.name)
def test_links_lead_to_files_and_headings(page):
    for target in re.findall(r"\]\(([^)#\s]*#?[^)\s]*)\)", page.read_text()):
        if "://" in target:
            continue
        path, _, heading = target.partition("#")
        file = (page.parent / path) if path else page
        assert file.exists(), target
        if heading:
            titles = re.findall(r"^#+ (.*)$", file.read_text(), re.MULTILINE)
            assert heading in [anchor(title) for title in titles], target


@pytest.mark.parametrize("page", DOCUMENTS, ids=lambda page: page.name)
def test_tables_have_as_many_cells_in_every_row(page):
    """GitHub drops what stands beyond the last column."""
    table: list[int] = []
    for line in [*page.read_text().splitlines(), ""]:
        if line.startswith("|"):
            table.append(len(re.findall(r"(?<!\\)\|", line)))
        elif table:
            assert len(table) > 2, line
            assert len(set(table)) == 1, f"{page.name}: the table before {line!r}: {table}"
            table = []


def test_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 160


def test_headline_figures_of_results_come_first():
    first = (ROOT / "RESULTS.md").read_text().split("\n## ")[0]
    rows = [line for line in first.splitlines() if line.startswith("|")][2:]
    assert 10 <= len(rows) <= 20
    for row in rows:
        *_, command, commit, date = (cell.strip() for cell in row.strip("|").split("|"))
        assert "`" in command and re.fullmatch(r"[0-9a-f]{7}( to [0-9a-f]{7})?", commit), row
        assert re.fullmatch(r"20\d\d-\d\d-\d\d", date), row
