"""Draws images with their captions below, as one image."""

import textwrap
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

COLUMNS = 5
SIDE = 224  # pixels of an image; smaller images are enlarged to have room for a caption
GAP = 16
LINES = 4  # of a caption
FONT_SIZE = 15
LINE_HEIGHT = 19
INK, PAPER = (30, 30, 30), (255, 255, 255)


def image_grid(images: np.ndarray, captions: Sequence[str]) -> Image.Image:
    """Draw uint8 [N, S, S, 3] in rows of five, each image above its caption, which is cut after four lines."""
    font = ImageFont.load_default(FONT_SIZE)
    texts = [_wrapped(caption, font) for caption in captions]
    columns, lines = min(COLUMNS, len(images)), max(text.count("\n") + 1 for text in texts)
    rows = -(-len(images) // columns)
    width, height = SIDE + GAP, SIDE + GAP + lines * LINE_HEIGHT + GAP // 2
    sheet = Image.new("RGB", (columns * width + GAP, rows * height + GAP), PAPER)
    draw = ImageDraw.Draw(sheet)
    for cell, (image, text) in enumerate(zip(images, texts, strict=True)):
        left, top = GAP + cell % columns * width, GAP + cell // columns * height
        sheet.paste(_resized(image), (left, top))
        draw.rectangle((left - 1, top - 1, left + SIDE, top + SIDE), outline=(210, 210, 210))
        draw.multiline_text((left, top + SIDE + 6), text, INK, font, spacing=4)
    return sheet


def _resized(image: np.ndarray) -> Image.Image:
    resampling = Image.Resampling.NEAREST if image.shape[0] < SIDE else Image.Resampling.LANCZOS
    return Image.fromarray(image).resize((SIDE, SIDE), resampling)


def _wrapped(caption: str, font: ImageFont.FreeTypeFont) -> str:
    letters = max(8, int(SIDE / font.getlength("a")))
    return "\n".join(textwrap.wrap(caption, letters, max_lines=LINES, placeholder=" ..."))
