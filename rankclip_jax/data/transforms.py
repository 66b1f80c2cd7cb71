"""Pictures to the size the towers want: CLIP's evaluation preprocessing, and train augmentations.

Everything is uint8 [H, W, 3] in and out; pixels become floats on the device. Augmentations are
named steps joined by ``|``, for example ``"shift(translate=0.1, scale=0.2)|flip|color_jitter"``.
"""

import ast
import math
from collections.abc import Callable
from functools import partial

import numpy as np
from PIL import Image

from rankclip_jax.errors import UserError, lookup

Augment = Callable[[np.ndarray, np.random.Generator], np.ndarray]
WHITE = 255
LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R 601, as PIL's gray


def resize_and_crop(image: np.ndarray, size: int) -> np.ndarray:
    """CLIP's preprocessing: bicubic resize of the shorter side to `size`, then centre crop.

    The resize is PIL's, which low-passes when it shrinks; the crop's corner is rounded as
    torchvision rounds it. A picture that already fits is returned as it is.

    Args:
      image: uint8 [H, W, 3].
      size: side of the result in pixels.

    Returns:
      uint8 [size, size, 3].
    """
    height, width = image.shape[:2]
    if min(height, width) != size:
        # torchvision truncates the longer side: int(size * longer / shorter).
        longer = int(size * max(height, width) / min(height, width))
        height, width = (size, longer) if height <= width else (longer, size)
        image = np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC))
    top, left = round((height - size) / 2), round((width - size) / 2)
    return image[top : top + size, left : left + size]


def squash(image: np.ndarray, size: int) -> np.ndarray:
    """SigLIP's preprocessing: bicubic resize of both sides to `size`, whatever their ratio.

    Args:
      image: uint8 [H, W, 3].
      size: side of the result in pixels.

    Returns:
      uint8 [size, size, 3].
    """
    if image.shape[:2] == (size, size):
        return image
    return np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BICUBIC))


# How a picture gets the model's size: `config.model.image.resize`.
RESIZES: dict[str, Callable[[np.ndarray, int], np.ndarray]] = {"crop": resize_and_crop, "squash": squash}


def flip(image: np.ndarray, rng: np.random.Generator, *, probability: float = 0.5) -> np.ndarray:
    """Mirror left and right with the given probability."""
    return image[:, ::-1] if rng.random() < probability else image


def shift(image: np.ndarray, rng: np.random.Generator, *, translate: float = 0.08, scale: float = 0.1) -> np.ndarray:
    """Move and zoom a drawing on white ground; what moves in from outside is white.

    Args:
      image: uint8 [H, W, 3].
      rng: source of the draw.
      translate: largest move, as a fraction of each side; uniform in both directions.
      scale: largest zoom, in or out, as a fraction; uniform, one for both sides. At 0 the picture
        moves by whole pixels and is copied, which costs a tenth of resampling it.
    """
    height, width = image.shape[:2]
    down, right, zoom = (rng.random(3) * 2 - 1) * (translate * height, translate * width, scale)
    margin = math.ceil(max(height, width) * (translate + scale / 2)) + 1
    canvas = np.full((height + 2 * margin, width + 2 * margin, 3), WHITE, np.uint8)
    canvas[margin : margin + height, margin : margin + width] = image
    top, left = margin + down - height * zoom / 2, margin + right - width * zoom / 2
    if not scale:
        return canvas[round(top) : round(top) + height, round(left) : round(left) + width]
    box = (left, top, left + (1 + zoom) * width, top + (1 + zoom) * height)
    return _resize_box(canvas, box, width, height, Image.Resampling.BILINEAR)


def random_resized_crop(
    image: np.ndarray,
    rng: np.random.Generator,
    *,
    size: int,
    min_area: float = 0.5,
    max_ratio: float = 4 / 3,
) -> np.ndarray:
    """Crop a random part and resize it to a square by PIL's bicubic filter.

    Args:
      image: uint8 [H, W, 3].
      rng: source of the draw.
      size: side of the result in pixels; a pipeline fills it in.
      min_area: smallest share of the picture's area that a crop may have; uniform up to 1.
      max_ratio: largest ratio of a crop's sides, wide or tall; log-uniform.
    """
    height, width = image.shape[:2]
    area = height * width * rng.uniform(min_area, 1)
    ratio = math.exp(math.log(max_ratio) * rng.uniform(-1, 1))
    # A crop that would stick out is cut to the picture, so no draw has to be repeated.
    crop_width, crop_height = min(math.sqrt(area * ratio), width), min(math.sqrt(area / ratio), height)
    left, top = rng.random() * (width - crop_width), rng.random() * (height - crop_height)
    box = (left, top, left + crop_width, top + crop_height)
    return _resize_box(image, box, size, size, Image.Resampling.BICUBIC)


def color_jitter(
    image: np.ndarray,
    rng: np.random.Generator,
    *,
    brightness: float = 0.2,
    contrast: float = 0.2,
    saturation: float = 0.2,
) -> np.ndarray:
    """Scale brightness, contrast about the mean gray, and saturation by factors in 1 +- the argument.

    The three are one affine map of the colours, applied once and clipped once.
    """
    bright, contrasted, saturated = 1 + (rng.random(3) * 2 - 1) * (brightness, contrast, saturation)
    colours = image.reshape(-1, 3).astype(np.float32)
    # A product with a constant row is a tenth of the cost of `mean` over three columns.
    mean_gray = np.full(len(colours), 1 / len(colours), np.float32) @ colours @ LUMA
    mixing = saturated * np.eye(3) + (1 - saturated) * LUMA[:, None]
    mapped = colours @ (bright * contrasted * mixing).astype(np.float32)
    mapped += np.float32(bright * (1 - contrasted) * mean_gray + 0.5)
    np.clip(mapped, 0, 255, out=mapped)
    return mapped.astype(np.uint8).reshape(image.shape)


def affine(
    image: np.ndarray,
    rng: np.random.Generator,
    *,
    degrees: float = 12.0,
    scale: float = 0.15,
    stretch: float = 0.08,
    translate: float = 0.08,
) -> np.ndarray:
    """Rotate, zoom, stretch and move a drawing on white ground, in one bilinear resampling.

    Args:
      image: uint8 [H, W, 3].
      rng: source of the draw.
      degrees: largest rotation, either way.
      scale: the zoom is exp(u), u uniform in +-`scale`.
      stretch: width and height are multiplied by exp(u) and exp(-u), u uniform in +-`stretch`.
      translate: largest move, as a fraction of each side.
    """
    height, width = image.shape[:2]
    largest = (math.radians(degrees), scale, stretch, translate, translate)
    turn, zoom, aspect, right, down = (rng.random(5) * 2 - 1) * largest
    cos, sin = math.cos(turn) * math.exp(-zoom), math.sin(turn) * math.exp(-zoom)
    wide, tall = math.exp(-aspect), math.exp(aspect)
    # PIL wants the map from the result's pixels back to the source's; both turn about the centre.
    a, b, c, d = cos * wide, -sin * tall, sin * wide, cos * tall
    x0 = width / 2 - a * width * (0.5 + right) - b * height * (0.5 + down)
    y0 = height / 2 - c * width * (0.5 + right) - d * height * (0.5 + down)
    picture = Image.fromarray(np.ascontiguousarray(image))
    inverse, filter_ = (a, b, x0, c, d, y0), Image.Resampling.BILINEAR
    moved = picture.transform((width, height), Image.Transform.AFFINE, inverse, filter_, fillcolor=(WHITE,) * 3)
    return np.asarray(moved)


def recolor(image: np.ndarray, rng: np.random.Generator, *, strength: float = 0.3) -> np.ndarray:
    """Mix the colours by a random linear map near the identity; white stays white.

    Changes hue, saturation and contrast at once: another artist's palette for the same drawing.

    Args:
      image: uint8 [H, W, 3].
      rng: source of the draw.
      strength: standard deviation of each of the nine changes to the identity.
    """
    mixing = np.eye(3, dtype=np.float32) + strength * rng.standard_normal((3, 3), np.float32)
    ink = WHITE - image.reshape(-1, 3).astype(np.float32)
    mapped = WHITE + 0.5 - ink @ mixing
    return np.clip(mapped, 0, WHITE, out=mapped).astype(np.uint8).reshape(image.shape)


def _resize_box(
    image: np.ndarray, box: tuple[float, float, float, float], width: int, height: int, filter_: int
) -> np.ndarray:
    picture = Image.fromarray(np.ascontiguousarray(image))
    return np.asarray(picture.resize((width, height), filter_, box=box))


AUGMENTATIONS: dict[str, Callable[..., np.ndarray]] = {
    "affine": affine,
    "color_jitter": color_jitter,
    "flip": flip,
    "random_resized_crop": random_resized_crop,
    "recolor": recolor,
    "shift": shift,
}


def make_augment(pipeline: str, size: int, resize: str = "crop") -> Augment:
    """Compile ``"name|name(option=number)|..."`` into one function; ``""`` and ``"none"`` do nothing.

    Whatever the steps do, the result is brought to [size, size, 3] by `resize`, a key of `RESIZES`; put
    `random_resized_crop` first so that the other steps see small pictures.

    Raises:
      UserError: a step, option or resize is unknown, or the text cannot be read.
    """
    fit = lookup(RESIZES, resize, "resize")
    steps = [] if pipeline in ("", "none") else [_step(text.strip(), size) for text in pipeline.split("|")]

    def augment(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        for step in steps:
            image = step(image, rng)
        return fit(image, size)

    return augment


def _step(text: str, size: int) -> Augment:
    try:
        call = ast.parse(text, mode="eval").body
        name = call.func.id if isinstance(call, ast.Call) else call.id
        keywords = call.keywords if isinstance(call, ast.Call) else []
        options = {keyword.arg: float(ast.literal_eval(keyword.value)) for keyword in keywords}
        positional = isinstance(call, ast.Call) and call.args
    except (SyntaxError, AttributeError, ValueError, TypeError):
        positional = True
    if positional:
        raise UserError(f"cannot read augmentation {text!r}; write name or name(option=number).")
    function = lookup(AUGMENTATIONS, name, "augmentation")
    known = {option: None for option in function.__kwdefaults__}
    for option in options:
        lookup(known, option, f"option of augmentation {name}")
    if function is random_resized_crop:
        options["size"] = size
    return partial(function, **options)
