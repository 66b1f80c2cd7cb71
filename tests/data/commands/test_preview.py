"""The command `preview`: pairs as the towers get them, and the grid of their images."""

import numpy as np
from PIL import Image

from configs import emoji
from rankclip_jax.data.commands.grid import image_grid
from tests.support.data_commands import config_of


def test_preview_shows_pairs_as_the_towers_get_them(run_data, pairs_folder, tmp_path):
    out = tmp_path / "grid.png"
    text = run_data("preview", config_of(pairs_folder, augment="none"), f"--out={out}", "--pairs=7")
    assert text.count("pixels, to the tower") == 7 and f"gets them: {out}" in text
    assert "csv " in text and "train 26" in text
    assert text.count("caption  ") == 7 and text.count("tokens ") == 7
    grid = np.asarray(Image.open(out))
    assert grid.shape[1] > 5 * 224 and grid.shape[0] > 2 * 224  # two rows


def test_preview_with_a_vocabulary_of_partly_unreadable_captions(run_data, pairs_folder, tmp_path):
    config = config_of(pairs_folder)
    config.tokenizer = {"name": "bpe", "vocab_size": 300}
    assert "tokens" in run_data("preview", config, f"--out={tmp_path / 'grid.png'}")


def test_preview_of_the_embedded_set(run_data, tmp_path):
    text = run_data("preview", emoji.get_config("mu"), f"--out={tmp_path / 'grid.png'}")
    assert "64 x 64 pixels" in text and "second " in text


def test_the_grid_has_every_image_in_its_cell():
    images = np.zeros((7, 10, 10, 3), np.uint8)
    images[:, :, :, 0] = 30 * np.arange(7)[:, None, None] + 20
    grid = np.asarray(image_grid(images, ["a caption " * 20, "b", "", "狐狸", "e", "f", "g"]))
    centres = [(16 + 112, 16 + 112 + 240 * column) for column in range(5)]
    assert [int(grid[centre][0]) for centre in centres] == [20, 50, 80, 110, 140]
    below = int(np.flatnonzero((grid[:, 128] == (170, 0, 0)).all(axis=1))[0])
    assert below > 16 + 224 + 4 * 19 and (grid[below, 128 + 240] == (200, 0, 0)).all()
