"""Decodes images like CLIP's pipeline, with fixed rules for special cases.

* Truncated and damaged files are rejected; missing parts are never filled with grey.
* Palette, grey, CMYK (also Adobe's inverted CMYK) and transparent images keep their mode. The resize makes them RGB, by
  the rules of the library that the weights come from (`resize.LIBRARIES`). Colour profiles are ignored.
* 16-bit channels keep their high 8 bits. Integers of 32 bits and floats are rejected: their range is unknown.
* The first frame of an animation is used.
* EXIF orientation is ignored, so photos from phones may be rotated.
* Images of more than `MAX_PIXELS` are rejected before decoding, and so is EPS: Pillow would run Ghostscript for it.
"""

import io

from PIL import Image, UnidentifiedImageError

from rankclip_jax.data.images.depth import eight_bits
from rankclip_jax.data.images.types import ImageError
from rankclip_jax.data.pairs import PairSource
from rankclip_jax.data.records import Record, RecordSource

MAX_PIXELS = 89_478_485  # 256 MB of RGB: above this, Pillow warns of decompression bombs


def decode(data: bytes) -> Image.Image:
    """Decode the content of an image file, of any format that Pillow reads.

    Returns:
      A loaded PIL image of a mode in `types.MODES`. It is not an array, because Pillow's resize usually follows: an
      array would cost two copies.

    Raises:
      ImageError: the bytes are not a complete image, or its values have no known range; the message says what is wrong.
    """
    return loaded(open_image(data), f"{len(data):,} bytes")


def loaded(image: Image.Image, what: str = "image") -> Image.Image:
    """Read the pixels of an image that PIL has opened; result and errors as for `decode`. `what` is for messages."""
    check_size(image)
    try:
        image.load()
        return eight_bits(image)
    except ImageError:
        raise
    except Exception as error:  # Pillow's plugins raise OSError, SyntaxError, ValueError, EOFError, struct.error ...
        raise _damage(error, f"{image.format} of {what}") from error


def open_image(data: bytes) -> Image.Image:
    """Read the header only: format, mode, size and number of frames; `ImageError` if it is invalid or too large."""
    if not data:
        raise ImageError("empty", "no bytes")
    try:
        image = Image.open(io.BytesIO(data))
    except UnidentifiedImageError:
        raise ImageError("unidentified", f"{len(data):,} bytes that begin with {data[:8]!r}") from None
    except Image.DecompressionBombError as error:
        raise ImageError("too large", str(error)) from None
    except Exception as error:
        raise _damage(error, f"header of {len(data):,} bytes") from error
    check_size(image)
    return image


def check_size(image: Image.Image) -> None:
    """Raise `ImageError` for an image with no pixels or more than `MAX_PIXELS`, and for EPS."""
    width, height = image.size
    if not width * height:
        raise ImageError("empty", f"{width} x {height} pixels")
    if width * height > MAX_PIXELS:
        raise ImageError("too large", f"{width} x {height} pixels, more than {MAX_PIXELS:,}")
    if image.format == "EPS":
        raise ImageError("unidentified", "EPS, which is a program and is never run")


def _damage(error: Exception, what: str) -> ImageError:
    return ImageError("truncated" if "truncated" in str(error).lower() else "damaged", f"{what}: {error}")


class DecodedRecords(RecordSource):
    """The records of a `PairSource`, decoded on access."""

    def __init__(self, pairs: PairSource):
        self.pairs, self.has_second_captions = pairs, pairs.has_second_captions

    def __len__(self) -> int:
        return len(self.pairs)

    def key(self, index: int) -> str:
        return self.pairs.key(index)

    def captions(self, index: int) -> tuple[str, ...]:
        return self.pairs.captions(index)

    def second_captions(self, index: int) -> tuple[str, ...]:
        return self.pairs.second_captions(index)

    def __getitem__(self, index: int) -> Record:
        # Captions first: if they are invalid, decoding would be wasted.
        captions, second = self.captions(index), self.second_captions(index)
        return Record(self.key(index), decode(self.pairs.image_bytes(index)), captions, second)
