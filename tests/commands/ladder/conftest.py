"""A ladder of two rungs, small enough for tests."""

import pytest

WORDS = (
    "data=fake",
    "data.num_images=60",
    "data.val_size=20",
    "data.batch_size=4",
    "network.width=4",
    "network.depth=1",
    "trainer.max_steps=4",
    "trainer.accelerator=cpu",
    "sampler.num_steps=2",
)
MINE = """
shared: [model=basic_unet, network=unet_fast, callbacks=minimal, logger=csv, trainer.max_epochs=-1]
rungs:
  - {name: blind, change: no time, overrides: [network.use_time=false]}
  - {name: seeing, change: time, overrides: [network.use_time=true]}
"""


@pytest.fixture
def small(tmp_path, bars):
    """Arguments of a ladder with two rungs."""
    (tmp_path / "mine" / "ladder").mkdir(parents=True)
    (tmp_path / "mine" / "ladder" / "two.yaml").write_text(MINE)
    return (
        "--config-dir=mine",
        "ladder=two",
        *WORDS,
        "num_samples=70",
        f"extractor={bars}",
        "seeds=2",
    )
