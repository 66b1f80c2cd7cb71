"""The size of the images that a tower reads: `config.model.image.image_size`."""

from collections.abc import Sequence

from rankclip_jax.errors import UserError


def sides(image_size: int | Sequence[int]) -> tuple[int, int]:
    """(height, width) of `image_size`: the side of square images, or a pair of height and width, as in open_clip.

    Raises:
      UserError: it is neither.
    """
    pair = (image_size, image_size) if isinstance(image_size, int) else tuple(image_size)
    if len(pair) != 2 or not all(type(side) is int and side >= 1 for side in pair):
        raise UserError(f"model.image.image_size={image_size} must be at least 1, or a pair of height and width.")
    return pair


def shown(image_size: int | Sequence[int]) -> str:
    """The size for messages: "224", or "224 x 112" for images that are not square."""
    height, width = sides(image_size)
    return str(height) if height == width else f"{height} x {width}"
