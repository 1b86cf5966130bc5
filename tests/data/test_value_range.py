import numpy as np
import pytest
import torch
from torchvision.transforms import ToTensor

from diffusion_lab.data.value_range import ValueRange
from diffusion_lab.errors import UserError

PIXELS = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)


def test_zero_one_is_totensor_bit_for_bit():
    expected = ToTensor()(PIXELS[0, 0].numpy())
    encoded = ValueRange("zero_one").encode(PIXELS)
    assert encoded.dtype == torch.float32
    assert torch.equal(encoded[0], expected)


def test_minus_one_one_reaches_both_ends():
    encoded = ValueRange("minus_one_one").encode(PIXELS)
    assert encoded.min() == -1
    assert encoded.max() == 1
    expected = np.arange(256) / 127.5 - 1
    np.testing.assert_allclose(encoded.flatten().numpy(), expected, atol=1e-6)


@pytest.mark.parametrize("name", ["zero_one", "minus_one_one"])
def test_decode_undoes_encode(name):
    value_range = ValueRange(name)
    encoded = value_range.encode(PIXELS)
    assert torch.equal(value_range.decode(encoded), PIXELS)
    assert torch.equal(value_range.decode(encoded.double()), PIXELS)


def test_decode_clamps_and_rounds_to_nearest():
    values = torch.tensor([-5.0, 0.49 / 255, 0.51 / 255, 7.0, float("inf"), float("nan")])
    assert ValueRange("zero_one").decode(values).tolist() == [0, 0, 1, 255, 255, 0]
    values = torch.tensor([-9.0, -1.0, 0.0, 1.0, 9.0])
    assert ValueRange("minus_one_one").decode(values).tolist() == [0, 0, 128, 255, 255]


def test_to_unit_is_for_display():
    values = torch.tensor([-3.0, -1.0, 0.0, 1.0, 3.0])
    assert ValueRange("minus_one_one").to_unit(values).tolist() == [0, 0, 0.5, 1, 1]
    assert ValueRange("zero_one").to_unit(values).tolist() == [0, 0, 0, 1, 1]


def test_unknown_name_lists_the_choices():
    with pytest.raises(UserError, match="zero_one, minus_one_one") as raised:
        ValueRange("0_255")
    assert "\n" not in str(raised.value)
