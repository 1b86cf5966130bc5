"""Names in saved configurations of before, and what they are now."""

import pytest
import torch

from diffusion_lab.config.renamed import with_new_names
from diffusion_lab.config.trusted import construct
from diffusion_lab.diffusion import LinearSchedule, StraightPath, UniformWeighting, independent

OLD = {
    "noise_schedule": {"_target_": "diffusion_lab.diffusion.LinearSchedule", "noise": "uniform"},
    "weighting": {"_target_": "diffusion_lab.diffusion.Weighting"},
    "pairing": {
        "_target_": "hydra.utils.get_method",
        "path": "diffusion_lab.diffusion.independent",
    },
}


def test_old_names_stand_for_the_new_ones():
    built = {name: construct(node) for name, node in with_new_names(OLD).items()}
    assert type(built["noise_schedule"]) is StraightPath is LinearSchedule
    assert type(built["weighting"]) is UniformWeighting
    noise = torch.randn(2, 1, 4, 4)
    assert built["pairing"](noise, noise, None) is noise and built["pairing"].func is independent
    assert with_new_names(with_new_names(OLD)) == with_new_names(OLD)


@pytest.mark.parametrize("path", ["os.system", "diffusion_lab.cli.train"])
def test_other_functions_by_path_stay_what_they_were(path):
    node = {"_target_": "hydra.utils.get_method", "path": path}
    assert with_new_names(node) == node
