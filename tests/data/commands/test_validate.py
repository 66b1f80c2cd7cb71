"""The command `validate`: which pairs it lists as bad, and that training skips them."""

import json

from rankclip_jax.data.sources import SOURCES
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
