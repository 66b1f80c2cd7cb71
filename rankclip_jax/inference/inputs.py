"""The forms of images and texts that users pass to an `Encoder`, checked and converted one by one."""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from numbers import Number
from pathlib import Path
from typing import IO, Any

import numpy as np
from PIL import Image

from rankclip_jax.data.images.decode import MAX_PIXELS, decode, loaded
from rankclip_jax.data.images.types import ImageError, ImageLike
from rankclip_jax.errors import UserError
from rankclip_jax.terminal.show import printable, short

FORMS = "pass a path, the bytes of a file, an open file, a PIL image or a uint8 array [H, W, 3]"
ONE_IMAGE = (str, os.PathLike, bytes, bytearray, memoryview, Image.Image)
CHANNELS = (1, 3, 4)
HINTS = {
    "too large": "resize it",
    "truncated": "copy the file again",
    "damaged": "copy the file again",
    "unknown range": "scale the values to 0 ... 255, and convert them to 8 bits",
}


def image_items(images: Any) -> Sequence[Any] | Iterator[Any]:
    """The images in the argument of `encode_image`, which may be one image; iterators are returned unread.

    Raises:
      UserError: it is neither an image nor a collection of images in a definite order.
    """
    if isinstance(images, ONE_IMAGE) or hasattr(images, "read"):
        return [images]
    if hasattr(images, "__array__"):
        return _array_items(_as_array(images))
    if isinstance(images, Mapping | Set) or not isinstance(images, Iterable):
        raise UserError(f"encode_image was given {shown(images)}: {FORMS}, or a list of them.")
    return images if hasattr(images, "__len__") and hasattr(images, "__getitem__") else iter(images)


def _array_items(array: np.ndarray) -> Sequence[Any]:
    if array.ndim == 1 and array.dtype.kind in "OSU":  # a column of paths or images
        return list(array)
    if array.ndim == 4:
        return array
    return [array]


def read_image(image: Any) -> ImageLike:
    """Return one image, in any form, as a PIL image of 8 bits per channel or as uint8 [H, W, 3].

    Raises:
      UserError: it cannot be read, or it is no image.
    """
    try:
        if isinstance(image, str | os.PathLike):
            return _from_path(image)
        if isinstance(image, bytes | bytearray | memoryview):
            return decode(bytes(image))
        if isinstance(image, Image.Image):
            return loaded(image)
        if hasattr(image, "read"):
            return decode(_content(image))
        if hasattr(image, "__array__"):
            return _from_array(_as_array(image))
    except ImageError as error:
        hint = HINTS.get(error.kind, "convert it to PNG or JPEG")
        raise UserError(f"cannot read {_name(image)} as an image ({short(error)}): {hint}.") from None
    raise UserError(f"an image cannot be {shown(image)}: {FORMS}.")


def _name(image: Any) -> str:
    if not isinstance(image, str | os.PathLike):
        return f"this {type(image).__name__}"
    return printable(os.fsdecode(image))


def _from_path(path: str | os.PathLike) -> ImageLike:
    if "://" in str(path):  # not shown: it may hold a password
        raise UserError("an image cannot be a URL: download it, and pass its path.")
    path = Path(os.fsdecode(path)).expanduser()
    try:
        if not path.exists():
            raise UserError(f"no image at {_name(path)}: check the path.")
        if not path.is_file():
            raise UserError(f"{_name(path)} is not a file: pass the path of one image.")
        return decode(path.read_bytes())
    except (OSError, ValueError) as error:  # no permission, a name with a null character
        raise UserError(f"cannot read {_name(path)} ({short(error)}): check the path.") from None


def _content(file: IO[bytes]) -> bytes:
    """All bytes of a file, from its beginning like PIL."""
    try:
        if hasattr(file, "seek"):
            file.seek(0)
        data = file.read()
    except (OSError, ValueError) as error:  # a pipe, a closed file, text in another encoding
        raise UserError(f"cannot read {_name(file)} ({short(error)}): pass the bytes of the image.") from None
    if not isinstance(data, bytes):
        raise UserError(f"an image file must be open in mode 'rb'; reading it returned {shown(data)}.")
    return data


def _as_array(values: Any) -> np.ndarray:
    try:
        return np.asarray(values)
    except Exception as error:  # for example a tensor of another device
        raise UserError(f"cannot convert {shown(values)} to a numpy array ({short(error)}): {FORMS}.") from None


def _from_array(array: np.ndarray) -> ImageLike:
    """uint8 or uint16, [H, W] or [H, W, 1, 3 or 4], to uint8 [H, W, 3], or to a PIL image if it is transparent."""
    found = f"{array.dtype} {list(array.shape)}"
    if array.dtype not in (np.uint8, np.uint16):
        raise UserError(
            f"an image must be uint8 [H, W, 3], found {found}: scale the values to 0 ... 255, and convert them with "
            ".astype(np.uint8)."
        )
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim != 3 or array.shape[-1] not in CHANNELS:
        first = array.ndim == 3 and array.shape[0] in CHANNELS
        hint = "move the channels to the end with np.moveaxis(image, 0, -1)" if first else "convert it to RGB"
        raise UserError(f"an image must be uint8 [H, W, 3], found {found}: {hint}.")
    height, width, channels = array.shape
    if not 0 < height * width <= MAX_PIXELS:
        raise UserError(f"an image must have 1 to {MAX_PIXELS:,} pixels, found {found}: resize it.")
    array = (array >> 8).astype(np.uint8) if array.dtype == np.uint16 else array
    if channels == 4:
        return Image.fromarray(np.ascontiguousarray(array))
    return np.broadcast_to(array, (height, width, 3))


def text_items(texts: Any) -> list[str]:
    """The texts in the argument of `encode_text`, which may be one text.

    Raises:
      UserError: there is no text, or something else than a text.
    """
    if isinstance(texts, str):
        return [texts]
    if isinstance(texts, bytes | bytearray | Mapping | Set) or not isinstance(texts, Iterable):
        raise UserError(f"encode_text was given {shown(texts)}: pass a text or a list of texts.")
    try:
        items = list(texts)
    except TypeError as error:  # an array without dimensions
        raise UserError(f"encode_text was given {shown(texts)} ({error}): pass a list of texts.") from None
    if not items:
        raise UserError("encode_text was given no texts: pass at least one.")
    for index, text in enumerate(items):
        if not isinstance(text, str):
            raise UserError(f"text {index} is {shown(text)}: every text must be a string.")
    return list(map(str, items))


def shown(value: Any) -> str:
    """What a value is, for messages: small values themselves, and the type of others."""
    if value is None or isinstance(value, bool):
        return str(value)
    kind = type(value).__name__
    return f"{kind} {value}" if isinstance(value, Number) else f"a value of type {kind}"
