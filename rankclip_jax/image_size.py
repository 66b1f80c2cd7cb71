"""The input size of an image tower, `config.model.image.image_size`: a side in pixels, or (height, width)."""

Size = int | tuple[int, int]


def height_width_of(size: Size) -> tuple[int, int]:
    """Return (height, width) of a size."""
    return (size, size) if isinstance(size, int) else (size[0], size[1])


def size_text(size: Size) -> str:
    """Return the size for people, for example "224 x 224"; height first."""
    return " x ".join(map(str, height_width_of(size)))
