"""Decodes images to RGB like CLIP's pipeline, `Image.open(...).convert("RGB")`, with fixed rules for special cases.

* Truncated and damaged files are rejected; missing parts are never filled with grey.
* Transparency is dropped, not composited: the colours under transparent pixels become visible.
* Palette, grey and CMYK images (also Adobe's inverted CMYK) become RGB by Pillow's rules. Colour profiles are ignored.
* 16-bit channels keep their high 8 bits. Pillow does this for colour; its `convert` would turn 16-bit grey into white.
* The first frame of an animation is used.
* EXIF orientation is ignored, so photos from phones may be rotated.
* Images of more than `MAX_PIXELS` are rejected before decoding, and so is EPS: Pillow would run Ghostscript for it.
"""

import io

from PIL import Image, UnidentifiedImageError

from rankclip_jax.data.pairs import PairSource
from rankclip_jax.data.records import Record, RecordSource

MAX_PIXELS = 89_478_485  # 256 MB of RGB: above this, Pillow warns of decompression bombs
HIGH_BYTE = 1 / 256


class ImageError(Exception):
    """Invalid bytes of an image. `kind` is "empty", "unidentified", "truncated", "damaged" or "too large"."""

    def __init__(self, kind: str, detail: str):
        super().__init__(f"{kind}: {detail}")
        self.kind = kind


def decode(data: bytes) -> Image.Image:
    """Decode the content of an image file, of any format that Pillow reads.

    Returns:
      A loaded PIL image of mode RGB. It is not an array, because Pillow's resize usually follows: an array would cost
      two copies.

    Raises:
      ImageError: the bytes are not a complete image; the message says what is wrong.
    """
    image = open_image(data)
    try:
        return _to_rgb(image)
    except Exception as error:  # Pillow's plugins raise OSError, SyntaxError, ValueError, EOFError, struct.error ...
        raise _damage(error, f"{image.format} of {len(data):,} bytes") from error


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
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise ImageError("too large", f"{width} x {height} pixels, more than {MAX_PIXELS:,}")
    if image.format == "EPS":
        raise ImageError("unidentified", "EPS, which is a program and is never run")
    return image


def _damage(error: Exception, what: str) -> ImageError:
    return ImageError("truncated" if "truncated" in str(error).lower() else "damaged", f"{what}: {error}")


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB":
        image.load()
        return image  # `convert` would copy it
    if image.mode.startswith("I;16"):
        return image.convert("I").point(lambda value: value * HIGH_BYTE).convert("RGB")
    return image.convert("RGB")


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
