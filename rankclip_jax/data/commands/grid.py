"""Images with their captions below them, as one image."""

import textwrap
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

COLUMNS = 5
SIDE = 224  # pixels of a cell; smaller images are enlarged, so that a caption fits below
GAP = 16
LINES = 4  # of a caption
FONT_SIZE = 15
LINE_HEIGHT = 19
INK, PAPER = (30, 30, 30), (255, 255, 255)


def image_grid(images: np.ndarray, captions: Sequence[str]) -> Image.Image:
    """Draw uint8 [N, S, S, 3] in rows of five, each over its caption, which is cut after four lines."""
    font = ImageFont.load_default(FONT_SIZE)
    texts = [_wrapped(caption, font) for caption in captions]
    columns, lines = min(COLUMNS, len(images)), max(text.count("\n") + 1 for text in texts)
    rows = -(-len(images) // columns)
    wide, tall = SIDE + GAP, SIDE + GAP + lines * LINE_HEIGHT + GAP // 2
    sheet = Image.new("RGB", (columns * wide + GAP, rows * tall + GAP), PAPER)
    draw = ImageDraw.Draw(sheet)
    for number, (image, text) in enumerate(zip(images, texts, strict=True)):
        left, top = GAP + number % columns * wide, GAP + number // columns * tall
        sheet.paste(_cell(image), (left, top))
        draw.rectangle((left - 1, top - 1, left + SIDE, top + SIDE), outline=(210, 210, 210))
        draw.multiline_text((left, top + SIDE + 6), text, INK, font, spacing=4)
    return sheet


def _cell(image: np.ndarray) -> Image.Image:
    enlarging = image.shape[0] < SIDE
    return Image.fromarray(image).resize(
        (SIDE, SIDE), Image.Resampling.NEAREST if enlarging else Image.Resampling.LANCZOS
    )


def _wrapped(caption: str, font: ImageFont.FreeTypeFont) -> str:
    letters = max(8, int(SIDE / font.getlength("a")))
    return "\n".join(textwrap.wrap(caption, letters, max_lines=LINES, placeholder=" ..."))
