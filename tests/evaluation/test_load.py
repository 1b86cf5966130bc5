"""Which extractor fits a data set, and what to type where none does."""

import pytest

from diffusion_lab.errors import UserError
from diffusion_lab.evaluation.features.load import extractor_for
from diffusion_lab.runs.data import data_words


def typed_config(*overrides):
    """The part of a run's configuration that records what was typed."""
    return {"command": {"choices": {"data": "mine"}, "overrides": ["seed=3", *overrides]}}


def test_a_data_set_of_the_users_own_has_no_extractor():
    """Without the options of a run no whole command can be shown."""
    with pytest.raises(UserError, match=r"with images: use extractor=inception; or train one"):
        extractor_for("images")
    with pytest.raises(
        UserError, match=r"version=<name> data=mine 'data.path=a b', and give its f"
    ):
        extractor_for("bars", words=data_words(typed_config("data.path=a b", "data.flip=true")))
    with pytest.raises(UserError, match=r"train_extractor\.py data=svhn version=svhn_v1"):
        extractor_for("svhn")
