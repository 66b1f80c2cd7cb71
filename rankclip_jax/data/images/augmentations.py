"""Random augmentations of training images; `transforms.make_augment` combines them into a pipeline.

Each function takes an RGB image (uint8 [H, W, 3] or PIL) and a generator of random numbers. It returns a PIL image if
Pillow computes the result, and an array if numpy does, because a conversion would copy the image.
"""

import math

import numpy as np
from PIL import Image

from rankclip_jax.data.images.types import WHITE, ImageLike, as_array, as_image, height_width
from rankclip_jax.image_size import Size, height_width_of

LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R 601, like PIL's mode "L"
TRIES = 10  # draws of a crop until one fits


def flip(image: ImageLike, rng: np.random.Generator, *, probability: float = 0.5) -> ImageLike:
    """Mirror the image horizontally with probability `probability`."""
    if rng.random() >= probability:
        return image
    if isinstance(image, np.ndarray):
        return image[:, ::-1]
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)


def shift(image: ImageLike, rng: np.random.Generator, *, translate: float = 0.08, scale: float = 0.1) -> np.ndarray:
    """Move and zoom a drawing on a white background; pixels from outside are white.

    Args:
      translate: largest move, as a fraction of each side; uniform in both directions.
      scale: largest zoom in or out, as a fraction; uniform, the same for both sides. At 0 the image is moved by whole
        pixels, without resampling, at a tenth of the time.
    """
    array = as_array(image)
    height, width = array.shape[:2]
    down, right, zoom = (rng.random(3) * 2 - 1) * (translate * height, translate * width, scale)
    margin = math.ceil(max(height, width) * (translate + scale / 2)) + 1
    canvas = np.full((height + 2 * margin, width + 2 * margin, 3), WHITE, np.uint8)
    canvas[margin : margin + height, margin : margin + width] = array
    top, left = margin + down - height * zoom / 2, margin + right - width * zoom / 2
    if not scale:
        return canvas[round(top) : round(top) + height, round(left) : round(left) + width]
    box = (left, top, left + (1 + zoom) * width, top + (1 + zoom) * height)
    return np.asarray(as_image(canvas).resize((width, height), Image.Resampling.BILINEAR, box=box))


def random_resized_crop(
    image: ImageLike,
    rng: np.random.Generator,
    *,
    size: Size,
    min_area: float = 0.9,
    max_area: float = 1.0,
    max_ratio: float = 4 / 3,
) -> Image.Image:
    """Crop a random region and resize it by PIL's bicubic filter, like torchvision's RandomResizedCrop.

    A crop of random area and aspect ratio is drawn until it fits into the image. If ten draws do not fit, the largest
    centred crop with an allowed ratio is used. The default area is open_clip's, scale=(0.9, 1); torchvision's
    default, for supervised training, is min_area=0.08.

    Args:
      size: side of the output in pixels, or (height, width); `make_augment` passes it.
      min_area, max_area: area of the crop, as a fraction of the image's area; uniform between the two.
      max_ratio: largest aspect ratio of the crop, wide or tall; log-uniform.
    """
    height, width = height_width(image)
    box = _crop_box(height, width, rng, (min_area, max_area), math.log(max_ratio))
    # Crop first: `resize(box=...)` would also read pixels beside the box.
    return as_image(image).crop(box).resize(height_width_of(size)[::-1], Image.Resampling.BICUBIC)


def _crop_box(
    height: int, width: int, rng: np.random.Generator, areas: tuple[float, float], log_ratio: float
) -> tuple[int, int, int, int]:
    for _ in range(TRIES):
        area, ratio = height * width * rng.uniform(*areas), math.exp(rng.uniform(-log_ratio, log_ratio))
        wide, tall = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < wide <= width and 0 < tall <= height:
            top, left = int(rng.integers(height - tall + 1)), int(rng.integers(width - wide + 1))
            return left, top, left + wide, top + tall
    wide, tall = min(width, round(height * math.exp(log_ratio))), min(height, round(width * math.exp(log_ratio)))
    top, left = (height - tall) // 2, (width - wide) // 2
    return left, top, left + wide, top + tall


def color_jitter(
    image: ImageLike,
    rng: np.random.Generator,
    *,
    brightness: float = 0.2,
    contrast: float = 0.2,
    saturation: float = 0.2,
) -> np.ndarray:
    """Scale brightness, contrast (about the mean grey) and saturation by factors uniform in [1 - value, 1 + value].

    The three form one affine map of the colours, applied and clipped once.
    """
    image = as_array(image)
    bright, contrasted, saturated = 1 + (rng.random(3) * 2 - 1) * (brightness, contrast, saturation)
    colours = image.reshape(-1, 3).astype(np.float32)
    # The product with a constant row costs a tenth of `mean` over three columns.
    mean_gray = np.full(len(colours), 1 / len(colours), np.float32) @ colours @ LUMA
    mixing = saturated * np.eye(3) + (1 - saturated) * LUMA[:, None]
    mapped = colours @ (bright * contrasted * mixing).astype(np.float32)
    mapped += np.float32(bright * (1 - contrasted) * mean_gray + 0.5)
    np.clip(mapped, 0, 255, out=mapped)
    return mapped.astype(np.uint8).reshape(image.shape)


def affine(
    image: ImageLike,
    rng: np.random.Generator,
    *,
    degrees: float = 12.0,
    scale: float = 0.15,
    stretch: float = 0.08,
    translate: float = 0.08,
) -> Image.Image:
    """Rotate, zoom, stretch and move a drawing on a white background, in one bilinear resampling.

    Args:
      degrees: largest rotation in either direction.
      scale: the zoom is exp(u), with u uniform in [-scale, scale].
      stretch: width and height are multiplied by exp(u) and exp(-u), with u uniform in [-stretch, stretch].
      translate: largest move, as a fraction of each side.
    """
    height, width = height_width(image)
    largest = (math.radians(degrees), scale, stretch, translate, translate)
    turn, zoom, aspect, right, down = (rng.random(5) * 2 - 1) * largest
    cos, sin = math.cos(turn) * math.exp(-zoom), math.sin(turn) * math.exp(-zoom)
    wide, tall = math.exp(-aspect), math.exp(aspect)
    # PIL expects the map from output pixels to input pixels; both rotate about the centre.
    a, b, c, d = cos * wide, -sin * tall, sin * wide, cos * tall
    x0 = width / 2 - a * width * (0.5 + right) - b * height * (0.5 + down)
    y0 = height / 2 - c * width * (0.5 + right) - d * height * (0.5 + down)
    inverse, filter_, white = (a, b, x0, c, d, y0), Image.Resampling.BILINEAR, (WHITE,) * 3
    return as_image(image).transform((width, height), Image.Transform.AFFINE, inverse, filter_, fillcolor=white)


def recolor(image: ImageLike, rng: np.random.Generator, *, strength: float = 0.3) -> np.ndarray:
    """Mix the colour channels by a random linear map near the identity; white stays white.

    This changes hue, saturation and contrast together, as if the drawing used another palette. `strength` is the
    standard deviation of the noise that is added to each of the nine entries of the identity.
    """
    image = as_array(image)
    mixing = np.eye(3, dtype=np.float32) + strength * rng.standard_normal((3, 3), np.float32)
    ink = WHITE - image.reshape(-1, 3).astype(np.float32)
    mapped = WHITE + 0.5 - ink @ mixing
    return np.clip(mapped, 0, WHITE, out=mapped).astype(np.uint8).reshape(image.shape)
