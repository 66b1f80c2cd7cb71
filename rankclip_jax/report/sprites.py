"""All images of the page in one sprite sheet: each image costs one style attribute, and the file stays small."""

import base64
from dataclasses import dataclass


@dataclass(frozen=True)
class Sheet:
    """A sprite sheet.

    Attributes:
      webp: the sheet as an encoded WebP image.
      columns: cells in a row.
      count: number of images in it.
      cell: (height, width) of an image in pixels.
    """

    webp: bytes
    columns: int
    count: int
    cell: tuple[int, int]

    @property
    def rows(self) -> int:
        return -(-self.count // self.columns)

    @property
    def uri(self) -> str:
        return f"data:image/webp;base64,{base64.b64encode(self.webp).decode()}"

    def position(self, index: int) -> str:
        """Return the CSS ``background-position`` of image ``index``; in percent, it holds at every size."""
        row, column = divmod(index, self.columns)
        x = 100 * column / max(1, self.columns - 1)
        y = 100 * row / max(1, self.rows - 1)
        return f"{x:.4g}% {y:.4g}%"
