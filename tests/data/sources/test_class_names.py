"""Class names: ImageNet's by WordNet id, numbered lists, and codes that are refused."""

import pytest

from rankclip_jax.data.sources.class_names import class_names_of, imagenet_names
from rankclip_jax.errors import UserError
from tests.support.pair_files import jpeg, load

# WordNet ids and first names of the ten classes of Imagenette, from its own page.
IMAGENETTE = {
    "n01440764": "tench", "n02102040": "English springer", "n02979186": "cassette player", "n03000684": "chain saw",
    "n03028079": "church", "n03394916": "French horn", "n03417042": "garbage truck", "n03425413": "gas pump",
    "n03445777": "golf ball", "n03888257": "parachute",
}  # fmt: skip


def test_imagenet():
    names = imagenet_names()
    assert len(names) == 1000 and list(names) == sorted(names)
    for code, name in IMAGENETTE.items():
        assert name.casefold().replace(" ", "") in names[code].casefold().replace(" ", "")
    assert names["n02012849"] != names["n03126707"]  # the bird and the machine, both "crane" in WordNet


def names_of(*codes, folder="/none"):
    return class_names_of(codes, [folder], "data")


@pytest.mark.parametrize(
    ("codes", "names"),
    [
        (("n01440764", "n03445777"), ("tench", "golf ball")),
        (("001.Black_footed_Albatross", "002.Laysan_Albatross"), ("Black footed Albatross", "Laysan Albatross")),
        (("01_cat", "02_dog", "10 - red fox"), ("cat", "dog", "red fox")),
        (("n02085620-Chihuahua", "n02085782-Japanese_spaniel"), ("Chihuahua", "Japanese spaniel")),
        (("737-800", "A320", "DC-10", "Spitfire"), ("737-800", "A320", "DC-10", "Spitfire")),
        (("1957_Chevy", "1957_Ford"), ("1957 Chevy", "1957 Ford")),  # years are no numbers of a list
        (("10_cat", "10_dog"), ("cat", "dog")),  # kohya's numbers of repeats
        (("red%20fox", "50% wool"), ("red fox", "50% wool")),
        (("train", "bus", "aeroplane"), ("train", "bus", "aeroplane")),
        (("A", "B", "space"), ("A", "B", "space")),
        (("red_fox",), ("red fox",)),
        (("狐", "犬"), ("狐", "犬")),
    ],
)
def test_names(codes, names):
    assert names_of(*codes) == names


@pytest.mark.parametrize(
    "codes",
    [
        ("0", "1", "10", "2"), ("n00000001", "n01440764"), ("cat", "0007"), ("train",), ("train", "val"), ("images",),
        ("c0", "c1"), ("class_1", "class_2"), ("class1",), ("AD", "AE"), ("737-800", "737-900"), ("m.01g317",),
        ("d41d8cd98f00b204", "cat"), ("123e4567-e89b-12d3-a456-426614174000", "cat"), ("001.", "002."), ("__", "cat"),
        ("fold1", "fold2"), ("100CANON", "101CANON"), ("images_1", "images_2"),
        ("0x1f", "0x2f"), ("a1b2c3d4", "0badcafe"), ("N1", "N2"),
    ],
)  # fmt: skip
def test_codes_are_refused(codes):
    with pytest.raises(UserError, match=r"data: \d of \d classes are codes.*/none/class_names.tsv with a line"):
        names_of(*codes)


def test_classes_of_the_same_name_are_reported(caplog):
    assert names_of("10_cat", "20_Cat", "30_dog") == ("cat", "Cat", "dog")
    assert "data: classes '10_cat' and '20_Cat' have the same name 'Cat', so they cannot be told apart" in caplog.text
    caplog.clear()
    names_of(*imagenet_names())
    assert not caplog.text


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_given_names_are_taken_as_they_are(tmp_path, encoding):
    text = "0\tzero\r\n1\t 1\r\n\r\nn01440764\tFisch — 狐\r\nother\tunused\r\n"
    (tmp_path / "class_names.tsv").write_bytes(text.encode(encoding))
    assert names_of("0", "1", "n01440764", "cat", folder=str(tmp_path)) == ("zero", "1", "Fisch — 狐", "cat")


@pytest.mark.parametrize("line", ["0 zero", "0\t", "\tzero", "0\t\u200b\x00", "0\tzero\tnull"])
def test_invalid_lines_of_the_file(tmp_path, line):
    (tmp_path / "class_names.tsv").write_text(f"1\tone\n{line}\n")
    with pytest.raises(UserError, match=r"class_names.tsv, line 2: expected CODE<TAB>NAME, found '"):
        names_of("0", "1", folder=str(tmp_path))


def test_two_names_of_one_class(tmp_path):
    (tmp_path / "class_names.tsv").write_text("0\tzero\n0\tzero\n0\tnull\n")
    with pytest.raises(UserError, match=r"line 3: '0' has the name 'zero' already"):
        names_of("0", "1", folder=str(tmp_path))


def test_folders_of_imagenet(tmp_path):
    for code in ("n01440764", "n03445777"):
        (tmp_path / "val" / code).mkdir(parents=True)
        (tmp_path / "val" / code / "ILSVRC_0001.JPEG").write_bytes(jpeg(1))
    split = load("image_folder", tmp_path, test="val").evals["test"]
    assert split.texts == ("a photo of a tench.", "a photo of a golf ball.")
    (tmp_path / "val" / "12").mkdir()
    (tmp_path / "val" / "12" / "a.jpg").write_bytes(jpeg(2))
    with pytest.raises(UserError, match=r"val: 1 of 3 classes are codes, not names: 12. Write .*val/class_names.tsv"):
        load("image_folder", tmp_path, test="val")
