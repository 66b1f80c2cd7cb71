"""The command `validate`: which pairs it lists as bad, and that training skips them."""

import json

import numpy as np
from PIL import Image

from rankclip_jax.data.sources import SOURCES
from tests.data.images.test_decode import COLOURED
from tests.support.data_commands import BAD, ROWS, config_of


def test_validate_lists_exactly_the_broken_pairs(run_data, pairs_folder, tmp_path):
    out = tmp_path / "bad.jsonl"
    text = run_data("validate", config_of(pairs_folder), f"--out={out}", "--threads=3")
    found = {line["key"]: line["reason"] for line in map(json.loads, out.read_text().splitlines())}
    assert set(found) == set(BAD)
    for name, reason in BAD.items():
        assert found[name].startswith(reason), found[name]
    assert f"{len(ROWS)} pairs, {len(BAD)} of them bad" in text
    assert "1 truncated: cut.jpg" in text and f"--config.data.quarantine={out}" in text
    for kind in ("CMYK", "grey", "transparency", "EXIF orientation", "animation", "over-long caption"):
        assert f" 1 {kind}" in text, text
    assert " 2 palette" in text  # and every GIF has one
    assert not list(tmp_path.glob("*.partial"))


def test_damaged_exif_data_and_values_of_unknown_range(run_data, tmp_path):
    """Damaged EXIF data do not matter, and do not end the command. Floats are listed; 16 bits are not."""
    images = tmp_path / "images"
    images.mkdir()
    for name in ("exif.png", "exif.webp"):
        COLOURED.save(images / name, exif=b"Exif\0\0no header")
    Image.fromarray(np.ones((64, 64), np.float32)).save(images / "float.tif")
    Image.fromarray(np.arange(4096, dtype=np.uint16).reshape(64, 64)).save(images / "deep.png")
    for path in list(images.iterdir()):
        path.with_suffix(".txt").write_text(f"a sketch of {path.stem}")
    (images / "exif.txt").write_text("two formats")
    config = config_of(tmp_path, name="image_folder", train=str(images))
    text = run_data("validate", config, f"--out={tmp_path / 'bad.jsonl'}")
    listed = [json.loads(line) for line in (tmp_path / "bad.jsonl").read_text().splitlines()]
    assert listed == [{"key": "float.tif", "reason": "unknown range: TIFF of mode F, floats of any size"}]
    assert "4 pairs, 1 of them bad" in text
    assert " 2 damaged EXIF: not used" in text and " 1 16 bits" in text and "EXIF orientation" not in text


def test_strict_lists_unusual_pairs_too(run_data, pairs_folder, tmp_path):
    out = tmp_path / "bad.jsonl"
    run_data("validate", config_of(pairs_folder), f"--out={out}", "--strict", "--min_side=1")
    found = {json.loads(line)["key"] for line in out.read_text().splitlines()}
    assert found == set(BAD) - {"pixel.png"} | {"long.jpg", "moving.gif"}


def test_training_skips_listed_pairs(run_data, pairs_folder, tmp_path):
    out = tmp_path / "bad.jsonl"
    run_data("validate", config_of(pairs_folder), f"--out={out}")
    train = SOURCES["csv"](config_of(pairs_folder, quarantine=str(out)).data).train
    assert [train.key(i) for i in range(len(train))] == [name for name in ROWS if name not in BAD]
    for i in range(len(train)):
        assert train[i].captions


def test_the_same_key_at_two_locations_is_reported(run_data, pairs_folder, tmp_path):
    twice = config_of(
        pairs_folder, train=f"{pairs_folder / 'pairs.csv'} | {pairs_folder / 'pairs.csv'}", images=str(pairs_folder)
    )
    text = run_data("validate", twice, f"--out={tmp_path / 'bad.jsonl'}")
    assert f"{2 * len(ROWS)} pairs, {2 * len(BAD)} of them bad" in text
    assert f"{len(ROWS)} key of several pairs" in text
