"""Grids of positions; `make_towers` stored PyTorch's resized ones."""

from pathlib import Path

import numpy as np

# name: (old size, new size)
CASES = {"larger": ((4, 4), (7, 7)), "smaller": ((7, 7), (4, 4)), "oblong": ((3, 6), (5, 2)), "far": ((9, 9), (2, 2))}


def path() -> Path:
    return Path(__file__).parent / "positions.json"


def grid(size: tuple[int, int], width: int = 2) -> np.ndarray:
    """float32 [H, W, D], from numpy's legacy generator, whose values never change."""
    return np.random.RandomState(3).normal(size=(*size, width)).astype(np.float32)
