"""The embedded data set: its splits, captions, candidates, classes, digest, and bad input."""

import shutil
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from rankclip_jax.data.emoji import FOLDER, HELD_OUT_STYLE, STYLES
from rankclip_jax.data.emoji.catalogue import read_concepts
from rankclip_jax.data.emoji.splits import SPLITS, stable_hash
from rankclip_jax.data.sources import emoji
from rankclip_jax.data.sources.emoji import Drawing, captions_of, split_drawings
from rankclip_jax.data.sources.options import EmojiOptions
from rankclip_jax.errors import UserError

COUNTS = {"train": 4349, "val": 211, "test_style": 1305, "test_concept": 641, "test_subgroup": 657}


def load(**options):
    return emoji.load(EmojiOptions(**options))


@pytest.fixture(scope="module")
def dataset():
    return load()


@pytest.fixture(scope="module")
def concepts():
    return read_concepts(FOLDER)


@pytest.fixture(scope="module")
def splits(concepts):
    return split_drawings(concepts)


@pytest.fixture
def folder(tmp_path):
    """A copy of the data that a test may damage."""
    for name in ("concepts.tsv", *(f"{style}.webp" for style in STYLES)):
        shutil.copy(FOLDER / name, tmp_path)
    return tmp_path


# ---------------------------------------------------------------- splits


def test_counts(dataset):
    assert list(dataset.counts) == list(SPLITS)
    assert dataset.counts == COUNTS and sum(COUNTS.values()) == 7163
    assert len(dataset.train) == COUNTS["train"]
    assert {name: len(split.images) for name, split in dataset.evals.items()} == {
        name: count for name, count in COUNTS.items() if name != "train"
    }


def test_every_drawing_is_in_exactly_one_split(concepts, splits):
    keys = [drawing.key for drawings in splits.values() for drawing in drawings]
    assert len(keys) == len(set(keys)) == sum(len(concept.styles) for concept in concepts)


def subgroups_of(drawings):
    return {drawing.concept.subgroup for drawing in drawings}


def cells_of(drawings):
    return {drawing.concept.cell for drawing in drawings}


def test_no_subgroup_is_on_both_sides(splits):
    held_out = subgroups_of(splits["test_subgroup"])
    assert len(held_out) == 10
    others = [drawing for name in SPLITS if name != "test_subgroup" for drawing in splits[name]]
    assert not held_out & subgroups_of(others)
    assert len(held_out | subgroups_of(others)) == 95


def test_held_out_concepts_are_never_trained_on(splits):
    seen = cells_of(splits["train"] + splits["val"] + splits["test_style"])
    assert not cells_of(splits["test_concept"]) & seen
    assert {drawing.style for drawing in splits["test_concept"]} == set(STYLES)


def test_held_out_style_is_never_trained_on(splits):
    assert {drawing.style for drawing in splits["test_style"]} == {HELD_OUT_STYLE}
    assert HELD_OUT_STYLE not in {drawing.style for drawing in splits["train"] + splits["val"]}


def test_split_does_not_depend_on_the_order_of_the_table(concepts, splits):
    again = split_drawings(concepts[::-1])
    for name in SPLITS:
        assert {drawing.key for drawing in again[name]} == {drawing.key for drawing in splits[name]}


def test_stable_hash_is_crc32_of_utf8():
    assert stable_hash("123456789") == 0xCBF43926  # the check value of CRC-32/ISO-HDLC
    assert stable_hash("é") == stable_hash(b"\xc3\xa9".decode())


# ---------------------------------------------------------------- names, captions, pixels


@pytest.mark.parametrize(
    ("label", "group", "subgroup"),
    [
        ("dog", "animals-nature", "animal-mammal"),
        ("pizza", "food-drink", "food-prepared"),
        ("doughnut", "food-drink", "food-sweet"),
        ("locomotive", "travel-places", "transport-ground"),
        ("guitar", "objects", "musical-instrument"),
        ("red circle", "symbols", "geometric"),
    ],
)
def test_concepts_have_their_subgroup(concepts, label, group, subgroup):
    concept = next(concept for concept in concepts if concept.label == label)
    assert (concept.group, concept.subgroup) == (group, subgroup)


def test_captions_are_name_name_and_keyword_keywords(concepts):
    concept = next(concept for concept in concepts if concept.label == "dog")
    by_style = [captions_of(Drawing(concept, style)) for style in STYLES]
    for name, with_keyword, keywords in by_style:
        assert name == "dog" and keywords == ", ".join(concept.keywords)
        assert with_keyword.startswith("dog, ") and with_keyword.removeprefix("dog, ") in concept.keywords
    others = len([word for word in concept.keywords if word != "dog"])
    assert len({captions[1] for captions in by_style}) == min(others, len(STYLES))


def test_captions_are_distinct_and_a_third_are_bare_names(dataset):
    captions = [dataset.train.captions(i) for i in range(len(dataset.train))]
    assert all(len(set(c)) == len(c) and all(c) for c in captions)
    share = np.mean([1 / len(c) for c in captions])  # of draws that give the bare name, always first
    assert 0.33 < share < 0.4


def test_records_agree_with_their_parts(dataset):
    record = dataset.train[7]
    assert (record.key, record.captions) == (dataset.train.key(7), dataset.train.captions(7))
    assert record.image.shape == (64, 64, 3) and record.image.dtype == np.uint8


def test_pixels_are_the_named_cells(concepts):
    """Cells cut here from the sheet by hand, and a colour that a shifted grid would miss."""
    dataset = load(styles="noto,fluent-emoji-flat")
    index = next(i for i in range(len(dataset.train)) if dataset.train.key(i) == "noto/1F34E")  # red apple
    cell = next(concept.cell for concept in concepts if concept.hexcode == "1F34E")
    left, top = cell % 42 * 64, cell // 42 * 64
    with Image.open(FOLDER / "noto.webp") as sheet:
        expected = np.asarray(sheet.convert("RGB").crop((left, top, left + 64, top + 64)))
    np.testing.assert_array_equal(dataset.train[index].image, expected)
    red, green, blue = expected[30:40, 20:44].reshape(-1, 3).mean(0)
    assert red > 150 and max(green, blue) < 100


def test_no_image_is_blank(dataset):
    for i in range(0, len(dataset.train), 50):
        assert dataset.train[i].image.min() < 250
    for split in dataset.evals.values():
        assert (split.images.reshape(len(split.images), -1).min(1) < 250).all()


# ---------------------------------------------------------------- evaluation splits


@pytest.mark.parametrize("name", [name for name in SPLITS if name != "train"])
def test_candidates_are_the_names_of_the_split(dataset, splits, concepts, name):
    split = dataset.evals[name]
    assert split.name == name and split.images.dtype == np.uint8
    assert len(set(split.texts)) == len(split.texts) == len(split.text_ids)
    assert set(split.image_ids) <= set(split.text_ids)
    assert all(concepts[cell].label == text for cell, text in zip(split.text_ids, split.texts, strict=True))
    if name == "test_style":
        undrawn = set(split.text_ids) - set(split.image_ids)
        assert len(split.texts) == 1347 and len(undrawn) == 42
        assert all(HELD_OUT_STYLE not in concepts[cell].styles for cell in undrawn)
        assert cells_of(splits["train"]) <= set(split.text_ids.tolist())
    else:
        assert set(split.text_ids.tolist()) == cells_of(splits[name])


def test_classes_label_images_and_texts(dataset, concepts):
    for split in dataset.evals.values():
        for kind, number in (("group", 8), ("subgroup", 95)):
            classes = split.classes[kind]
            assert len(classes.names) == len(set(classes.names)) == number
            assert not any("-" in name for name in classes.names)
            truth = [getattr(concepts[cell], kind).split("-")[0] for cell in split.image_ids]
            assert [classes.names[label].split()[0] for label in classes.image_labels] == truth
            truth = [getattr(concepts[cell], kind).split("-")[0] for cell in split.text_ids]
            assert [classes.names[label].split()[0] for label in classes.text_labels] == truth
            assert len(classes.templates) >= 5
            assert all(template.count("{}") == 1 for template in classes.templates)


# ---------------------------------------------------------------- options and digest


def test_digest_is_stable_and_sees_pixels_captions_and_splits(dataset, folder):
    assert load(root=str(folder)).digest == dataset.digest
    table = (folder / "concepts.tsv").read_text()
    (folder / "concepts.tsv").write_text(table.replace("grinning face\t", "grinning faces\t"))
    digests = {dataset.digest, load(root=str(folder)).digest, load(train_limit=100).digest}
    (folder / "concepts.tsv").write_text(table)
    with Image.open(folder / "noto.webp") as sheet:
        sheet = sheet.convert("RGB")
    sheet.paste("black", (0, 0, 64, 64))
    sheet.save(folder / "noto.webp", lossless=True)
    digests.add(load(root=str(folder)).digest)
    assert len(digests) == 4


def test_train_limit_keeps_some_of_every_style_and_all_evaluation(dataset):
    small = load(train_limit=200)
    styles = Counter(small.train.key(i).split("/")[0] for i in range(200))
    assert len(small.train) == small.counts["train"] == 200 and len(styles) == 4
    assert {k: v for k, v in small.counts.items() if k != "train"} == {k: v for k, v in COUNTS.items() if k != "train"}


# ---------------------------------------------------------------- bad input


def refused(match, **options):
    with pytest.raises(UserError, match=match) as caught:
        load(**options)
    assert "\n" not in str(caught.value)


def test_options_that_cannot_be(tmp_path):
    refused("Did you mean 'noto-v1'", styles="noto-v2")
    refused("split 'test_style' of emoji is empty with styles=noto", styles="noto")
    refused("train_limit is -1", train_limit=-1)
    refused("cannot read .*nowhere", root=str(tmp_path / "nowhere"))


def test_missing_and_damaged_sheets(folder):
    sheet = folder / "noto.webp"
    sheet.write_bytes(sheet.read_bytes()[:1000])
    refused("cannot read the sprite sheet .*noto.webp", root=str(folder))
    sheet.unlink()
    refused("cannot read the sprite sheet .*noto.webp", root=str(folder))
    Image.new("RGB", (42 * 64, 64)).save(sheet)
    refused("2688x64 pixels; 1644 concepts need 2688x2560", root=str(folder))


def test_damaged_table(folder):
    table = folder / "concepts.tsv"
    lines = table.read_text().split("\n")
    table.write_text("\n".join([lines[0].replace("label", "title"), *lines[1:]]))
    refused("lacks column 'label'; found: cell, hexcode", root=str(folder))
    table.write_text("\n".join([*lines[:5], lines[6], *lines[6:]]))
    refused("line 6: expected cell 4", root=str(folder))
    table.write_bytes(b"\xff\xfe")
    refused("cannot read .*concepts.tsv", root=str(folder))


def test_the_prompts_on_which_published_figures_rest():
    templates = emoji.load().evals["val"].classes["group"].templates
    assert templates[:4] == ("{}", "an emoji of {}", "a drawing of {}", "a picture of {}") and len(templates) == 7
