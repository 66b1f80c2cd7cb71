"""Encoded images to RGB, as CLIP's pipeline does it: `Image.open(...).convert("RGB")`, and what that leaves open.

* a truncated or damaged file is refused, never filled up with grey;
* transparency is dropped, not composited: what is painted under it shows, as in CLIP's pipeline;
* palettes, grey, CMYK (Adobe's inverted one too) become RGB by Pillow's rules; colour profiles are not applied;
* of 16 bits the high 8 are taken. Pillow does so for colour; its `convert` would make 16-bit grey all white;
* of an animation the first frame is taken;
* EXIF orientation is not applied, as in CLIP's pipeline: phone images may lie on their side;
* more than `MAX_PIXELS` is refused before anything is decoded, and so is EPS, which Pillow has Ghostscript run.
"""

import io
import warnings

from PIL import Image, UnidentifiedImageError

from rankclip_jax.data.pairs import PairSource
from rankclip_jax.data.records import Record, RecordSource

MAX_PIXELS = 89_478_485  # where Pillow begins to warn of decompression bombs: 256 MB of RGB
HIGH_BYTE = 1 / 256

# What it warns of is refused here, or of no consequence: broken EXIF, transparency of a palette. Its texts differ
# from image to image, so that Python would print every one of them across the progress bar.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")


class ImageError(Exception):
    """Bytes that are no usable image.

    Attributes:
      kind: one of "empty", "unidentified", "truncated", "damaged", "too large".
    """

    def __init__(self, kind: str, detail: str):
        super().__init__(f"{kind}: {detail}")
        self.kind = kind


def decode(data: bytes) -> Image.Image:
    """Decode an image of any format that Pillow knows.

    Args:
      data: content of the file.

    Returns:
      A loaded image of mode RGB; `np.asarray` gives uint8 [H, W, 3]. It stays Pillow's because what follows is
      Pillow's resize, and a numpy array in between costs two copies.

    Raises:
      ImageError: says what is wrong.
    """
    image = open_image(data)
    try:
        return _to_rgb(image)
    except Exception as error:  # Pillow's plugins raise OSError, SyntaxError, ValueError, EOFError, struct.error ...
        raise _damage(error, f"{image.format} of {len(data):,} bytes") from error


def open_image(data: bytes) -> Image.Image:
    """Read the header alone: format, mode, size and number of frames.

    Raises:
      ImageError: there is none, or it announces more than `MAX_PIXELS`.
    """
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
        raise ImageError("unidentified", "EPS, which would be run as a program")
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
        # Captions first: without them there is no need to decode.
        captions, second = self.captions(index), self.second_captions(index)
        return Record(self.key(index), decode(self.pairs.image_bytes(index)), captions, second)
