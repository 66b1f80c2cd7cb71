"""The embedded data set: 1,644 emoji concepts drawn in up to five styles, 64 x 64 pixels.

`concepts.tsv` has one row per concept. Concept k is cell k of every sprite sheet, in column ``k % COLUMNS`` and row
``k // COLUMNS``. NOTICE names the sources of the drawings and names.
"""

from pathlib import Path

FOLDER = Path(__file__).resolve().parent
CELL = 64  # pixels
COLUMNS = 42
STYLES = ("noto", "noto-v1", "twemoji", "emojione", "fluent-emoji-flat")
HELD_OUT_STYLE = "fluent-emoji-flat"
