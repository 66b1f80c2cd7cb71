"""Images of more than 8 bits per channel: the high 8 bits where the file format fixes the range of the values.

Pillow's own conversion clips 16-bit grey to white and 32-bit floats to black or white.
"""

import numpy as np
from PIL import Image

from rankclip_jax.data.images.types import MODES, ImageError

BITS_PER_SAMPLE, PHOTOMETRIC = 258, 262  # tags of TIFF
WHITE_IS_ZERO = 0
# Formats whose 16-bit grey uses the whole range, or declares fewer bits (TIFF). Icons hold PNGs. None: made in memory.
KNOWN_RANGE = ("ICNS", "ICO", "JPEG2000", "PNG", "PPM", "TIFF", None)
CONTENT = {"I": "integers", "F": "floats"}


def eight_bits(image: Image.Image) -> Image.Image:
    """Return a loaded image with 8 bits per channel, of a mode in `types.MODES`; grey of 16 bits becomes mode "L".

    Raises:
      ImageError: integers of 32 bits, floats and other modes, whose values have no known range.
    """
    if image.mode in MODES:
        return image
    # Pillow scales the values of a PGM to 16 bits and gives them the mode of 32 bits.
    known = image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM")
    if not known or image.format not in KNOWN_RANGE:
        content = CONTENT.get(image.mode, "values")
        raise ImageError("unknown range", f"{image.format or 'image'} of mode {image.mode}, {content} of any size")
    tags = getattr(image, "tag_v2", {})
    bits = tags.get(BITS_PER_SAMPLE, (16,))[0]
    grey = (np.asarray(image).astype(np.uint16) >> (bits - 8)).astype(np.uint8)
    return Image.fromarray(~grey if tags.get(PHOTOMETRIC) == WHITE_IS_ZERO else grey)
