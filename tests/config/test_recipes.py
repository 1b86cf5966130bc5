"""Sampling settings of the recipes, and of the page on them."""

import pytest

from diffusion_lab import compose_config
from diffusion_lab.config.groups import make_sampler, words
from diffusion_lab.diffusion import StraightPath
from diffusion_lab.sampling.conditioning import Conditioning
from tests.support.forked import ROOT

RECIPES = {
    # sampler, steps, guidance scale: what RESULTS.md's figures were measured with
    "quickstart": ("BlendSampler", 5, 1.5),
    "quickstart_classes": ("BlendSampler", 5, 1.5),
    "fast": ("UniPCMultistepScheduler", 5, 1.25),
    "fast_classes": ("UniPCMultistepScheduler", 5, 1.25),
    "best_cpu": ("UniPCMultistepScheduler", 5, 1.15),
    "best_cpu_classes": ("UniPCMultistepScheduler", 5, 1.05),
    "one_step": ("BlendSampler", 1, 1.0),
}
OTHER_DATA = {"fashion": "fast_classes", "images_small": "fast"}
"""Recipes with the settings of another one, on other images."""


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_has_what_it_is_judged_with(name):
    more = ["teacher.run=x"] if name == "one_step" else []
    cfg = compose_config([f"experiment={name}", *more])
    sampler = cfg.sampler.get("scheduler", cfg.sampler._target_.rpartition(".")[2])
    assert (sampler, cfg.sampler.num_steps, cfg.guidance_scale) == RECIPES[name]
    for callback in (cfg.callbacks.samples, cfg.callbacks.figures):
        assert callback.sampler.num_steps == cfg.sampler.num_steps
        assert callback.guidance_scale == cfg.guidance_scale


@pytest.mark.parametrize("name", words("experiment"))
def test_what_has_no_classes_is_not_guided(name):
    cfg = compose_config([f"experiment={name}"])
    if cfg.model.num_classes is None or name not in {*RECIPES, *OTHER_DATA}:
        assert cfg.guidance_scale == 1 and cfg.guidance_interval is None


@pytest.mark.parametrize("name", OTHER_DATA)
def test_a_recipe_for_other_images_has_the_settings_of_its_original(name):
    cfg, original = (compose_config([f"experiment={n}"]) for n in (name, OTHER_DATA[name]))
    assert cfg.network.width == original.network.width
    for node in ("optimizer", "sampler", "guidance_scale", "time_sampling"):
        assert cfg[node] == original[node]
    assert cfg.trainer.max_time == original.trainer.max_time


def test_the_page_on_the_recipes_has_the_same_numbers():
    page = (ROOT / "docs" / "speedrun.md").read_text()
    rows = [line.split("|")[1:-1] for line in page.splitlines() if line.startswith("| `experiment")]
    assert len(rows) == len(RECIPES)
    for row in rows:
        name, sampler, steps, scale, calls = (cell.strip(" `") for cell in row)
        cfg = compose_config([name])
        assert [cfg.sampler.num_steps, cfg.guidance_scale] == [int(steps), float(scale)]
        one = Conditioning((0,), cfg.guidance_scale)
        built = make_sampler(sampler, num_steps=int(steps))
        assert sum(one.network_calls(built, StraightPath(), (1, 8, 8))) == int(calls)
        assert built.name == RECIPES[name.removeprefix("experiment=")][0]
