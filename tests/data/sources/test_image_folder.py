"""Images in a folder per class, or with a text file beside each."""

import pytest

from rankclip_jax.data.pairs import PairOptions
from rankclip_jax.data.sources import image_folder
from rankclip_jax.errors import UserError
from tests.support.pair_files import jpeg

TEMPLATES = ("a photo of a {}.", "{}")


def open_folder(*folders, templates=TEMPLATES):
    return image_folder.open_pairs([str(folder) for folder in folders], PairOptions(templates=templates))


def fill(folder, names):
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(jpeg(number))


def test_classes_are_the_top_level_folders(tmp_path):
    names = (
        "cat/1.JPG",
        "cat/deep/er/2.png",
        "red_fox/1.webp",
        "red_fox/notes.txt",
        "cat/.hidden.jpg",
        ".trash/x/1.jpg",
    )
    fill(tmp_path, names)
    (tmp_path / "empty_class").mkdir()
    pairs = open_folder(tmp_path)
    assert [pairs.key(i) for i in range(len(pairs))] == ["cat/1.JPG", "cat/deep/er/2.png", "red_fox/1.webp"]
    assert pairs.class_names == ("cat", "red fox")
    assert [pairs.label(i) for i in range(3)] == [0, 0, 1]
    assert pairs.captions(2) == ("a photo of a red fox.", "red fox")
    assert pairs.image_bytes(1) == jpeg(1) and pairs.image_bytes(2) == jpeg(2)


def test_class_names_from_a_file(tmp_path):
    fill(tmp_path, ("n01440764/1.jpg", "n02119022/1.jpg"))
    (tmp_path / "class_names.tsv").write_text("n01440764\ttench\n\nn02119022\tred fox\nn0\tnone\n")
    assert open_folder(tmp_path).class_names == ("tench", "red fox")


def test_several_folders_are_one(tmp_path):
    fill(tmp_path / "a", ("cat/1.jpg", "dog/1.jpg"))
    fill(tmp_path / "b", ("ape/1.jpg", "cat/1.jpg"))
    pairs = open_folder(tmp_path / "a", tmp_path / "b")
    assert pairs.class_names == ("ape", "cat", "dog") and [pairs.label(i) for i in range(4)] == [0, 1, 1, 2]


def test_a_text_file_beside_each_image(tmp_path):
    fill(tmp_path, ("1.jpg", "2.jpg", "3.jpg"))
    (tmp_path / "1.txt").write_text("one,\ntwo\n")
    (tmp_path / "3.txt").write_bytes(b"caf\xe9")
    pairs = open_folder(tmp_path)
    assert (
        len(pairs) == 3 and pairs.captions(0) == ("one,\ntwo",) and pairs.class_names == () and pairs.label(0) is None
    )
    with pytest.raises(FileNotFoundError):
        pairs.captions(1)
    with pytest.raises(UnicodeDecodeError):
        pairs.captions(2)
    digest = pairs.digest()
    (tmp_path / "2.txt").write_text("late")
    assert open_folder(tmp_path).digest() != digest


def test_a_deleted_image_is_a_bad_record(tmp_path):
    fill(tmp_path, ("cat/1.jpg", "cat/2.jpg", "dog/1.jpg"))
    pairs = open_folder(tmp_path)
    (tmp_path / "cat/2.jpg").unlink()
    assert pairs.image_bytes(0) == jpeg(0)
    with pytest.raises(FileNotFoundError):
        pairs.image_bytes(1)


def test_invalid_folders(tmp_path):
    for folder in (tmp_path / "none", "https://x.org/folder"):
        with pytest.raises(UserError, match="is not a local folder"):
            open_folder(folder)
    with pytest.raises(UserError, match=r"no images in .* image_folder reads files .jpg"):
        open_folder(tmp_path)
    fill(tmp_path, ("1.jpg",))
    with pytest.raises(UserError, match=r"holds images such as 1.jpg without captions or classes"):
        open_folder(tmp_path)
    fill(tmp_path, ("cat/1.jpg", "dog/1.jpg"))
    with pytest.raises(UserError, match=r"holds folders, and images beside them such as 1.jpg"):
        open_folder(tmp_path)
    (tmp_path / "1.jpg").unlink()
    for templates in ((), ("no place",), ("{} and {}",)):
        with pytest.raises(UserError, match=r"config.data.templates"):
            open_folder(tmp_path, templates=templates)
