"""Image sizes, an int (square) or [height, width], and a check that a number divides them."""

from collections.abc import Sequence

from diffusion_lab.errors import UserError


def height_and_width(image_size: int | Sequence[int]) -> tuple[int, int]:
    """Return (height, width) of an int (square) or a pair; UserError unless both are at least 1."""
    pair = list(image_size) if isinstance(image_size, Sequence) else [image_size] * 2
    if len(pair) != 2 or any(type(side) is not int or side < 1 for side in pair):
        raise UserError(
            f"{as_option(image_size)}: expected a whole number above 0, for example "
            "data.image_size=32, or height and width, for example data.image_size=[24,32]"
        )
    return pair[0], pair[1]


def check_divisible(
    image_size: int | Sequence[int], multiple: int, reason: str, remedy: str = ""
) -> tuple[int, int]:
    """Return (height, width); UserError unless both are multiples of `multiple`.

    The message begins with `reason`, names the nearest possible sizes, and ends with `remedy`, an
    alternative to another size.
    """
    height, width = height_and_width(image_size)
    if height % multiple == 0 and width % multiple == 0:
        return height, width
    below = [side // multiple * multiple for side in (height, width)]
    above = [-(-side // multiple) * multiple for side in (height, width)]
    nearest = [pair for pair in (below, above) if min(pair) > 0]
    possible = " or ".join(
        as_option(pair[0] if isinstance(image_size, int) else pair) for pair in nearest
    )
    raise UserError(
        f"{reason}, but {as_option(image_size)} is no multiple of {multiple}; nearest possible: "
        f"{possible}{remedy}"
    )


def as_option(image_size: object) -> str:
    """Return an image size as it is typed: data.image_size=32 or data.image_size=[24,32]."""
    return f"data.image_size={image_size}".replace(", ", ",").replace("(", "[").replace(")", "]")
