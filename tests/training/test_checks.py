"""Warnings before a training, of noise schedules that do not go from clean images to noise."""

import pytest

from diffusion_lab.data import ImageDataModule
from diffusion_lab.diffusion import LinearSchedule, NoiseSchedule, StraightPath, VESchedule
from diffusion_lab.training.checks import bias_warning, start_warning


class Short(NoiseSchedule):
    """From sigma / alpha of 0.5 to 2."""

    def alpha(self, t):
        return 1 - 0.5 * t

    def sigma(self, t):
        return 0.5 + 0.5 * t


@pytest.mark.parametrize("schedule", [StraightPath(), LinearSchedule(), VESchedule(), Short()])
def test_a_schedule_that_begins_in_noise_is_told(schedule):
    told = start_warning(schedule)
    assert (told is not None) == isinstance(schedule, Short)
    assert told is None or "begins at sigma / alpha = 0.5" in told


def test_the_advice_names_a_setting_that_the_schedule_has():
    data = ImageDataModule(name="fake", num_images=24, val_size=4)
    data.setup("fit")
    own = bias_warning(Short(), data, {})
    assert own is not None and "beta_end" not in own and "let alpha end nearer to 0" in own
    some = bias_warning(Short(), data, {"sigma_max": 80.0})
    assert some is not None and "a larger noise_schedule.sigma_max reduces this bias" in some
