"""Every form of image and text that users pass to an `Encoder`: used as they expect, or one clear line."""

import io
import itertools

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from rankclip_jax.data.images.types import as_array
from rankclip_jax.errors import UserError
from rankclip_jax.inference.inputs import image_items, read_image, text_items

PIXELS = np.random.RandomState(0).randint(0, 256, (24, 32, 3)).astype(np.uint8)


def png(image=PIXELS):
    buffer = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(buffer, "PNG")
    return buffer


class Column:
    """Like a column of pandas: an array with other labels than 0, 1, 2 ..."""

    def __init__(self, *values):
        self.values = values

    def __len__(self):
        return len(self.values)

    def __getitem__(self, label):
        raise KeyError(label)

    def __iter__(self):
        return iter(self.values)

    def __array__(self, dtype=None, copy=None):
        array = np.empty(len(self.values), object)
        array[:] = self.values
        return array


@pytest.fixture
def path(tmp_path):
    (tmp_path / "image.png").write_bytes(png().getvalue())
    return tmp_path / "image.png"


FORMS = {
    "array": lambda path: PIXELS,
    "flipped twice": lambda path: PIXELS[:, ::-1].copy()[:, ::-1],
    "jax": lambda path: jnp.asarray(PIXELS),
    "16 bits": lambda path: PIXELS.astype(np.uint16) * 257,
    "path": lambda path: path,
    "text": str,
    "numpy text": lambda path: np.str_(path),
    "bytes": lambda path: path.read_bytes(),
    "bytearray": lambda path: bytearray(path.read_bytes()),
    "memoryview": lambda path: memoryview(path.read_bytes()),
    "file": lambda path: path.open("rb"),
    "file at its end": lambda path: png(),
    "opened": Image.open,
    "pil": lambda path: Image.fromarray(PIXELS),
}


@pytest.mark.parametrize("form", FORMS)
def test_one_image(path, form):
    given = FORMS[form](path)
    (item,) = image_items(given)
    np.testing.assert_array_equal(as_array(read_image(item)), PIXELS)


def test_grey_and_transparent_arrays():
    grey = PIXELS[..., 0]
    for form in (grey, grey[..., None], grey.astype(np.uint16) * 257):
        np.testing.assert_array_equal(read_image(form), np.repeat(grey[..., None], 3, 2))
    opaque = np.dstack([PIXELS, grey])
    assert read_image(opaque).mode == "RGBA"
    np.testing.assert_array_equal(as_array(read_image(opaque)), PIXELS)


def test_16_bits_are_those_of_a_file():
    values = np.arange(600 * 100, dtype=np.uint16).reshape(600, 100)
    from_file, in_memory = read_image(png(Image.fromarray(values))), read_image(Image.fromarray(values))
    for form in (from_file, in_memory):
        np.testing.assert_array_equal(as_array(form), read_image(values))


COLLECTIONS = {
    "list": lambda images: list(images),
    "tuple": lambda images: tuple(images),
    "array": lambda images: np.stack(images),
    "jax": lambda images: jnp.stack(images),
    "column": lambda images: Column(*map(Image.fromarray, images)),
    "generator": lambda images: (image for image in images),
    "chain": lambda images: itertools.chain(images[:1], images[1:]),
}


@pytest.mark.parametrize("form", COLLECTIONS)
def test_several_images(form):
    images = [PIXELS, PIXELS[::-1], PIXELS[:, ::-1]]
    items = list(image_items(COLLECTIONS[form](images)))
    assert len(items) == 3
    for item, image in zip(items, images, strict=True):
        np.testing.assert_array_equal(as_array(read_image(item)), image)


def test_columns_of_paths(path):
    for form in (np.array([str(path)] * 2), Column(str(path), path)):
        assert len(image_items(form)) == 2
        for item in image_items(form):
            np.testing.assert_array_equal(as_array(read_image(item)), PIXELS)


def closed(path):
    image = Image.open(path)
    image.close()
    return image


def closed_file(path):
    file = io.BytesIO(path.read_bytes())
    file.close()
    return file


INVALID = {
    "none": (lambda path: None, "an image cannot be None: pass a path, the bytes of a file"),
    "number": (lambda path: 3, "an image cannot be int 3"),
    "dict": (lambda path: {"bytes": b""}, "an image cannot be a value of type dict"),
    "lists": (lambda path: PIXELS.tolist(), "an image cannot be a value of type list"),
    "missing": (lambda path: "no/such.png", "no image at no/such.png: check the path"),
    "empty path": (lambda path: "", "is not a file"),
    "null character": (lambda path: "a\0b", r"a\\x00b.*: check the path"),
    "folder": (lambda path: path.parent, "is not a file: pass the path of one image"),
    "device": (lambda path: "/dev/zero", "/dev/zero is not a file"),
    "url": (lambda path: "https://me:secret@host/a.png?key=secret", "an image cannot be a URL: download it"),
    "text file": (lambda path: __file__, "cannot read .* as an image .unidentified: .*: convert it to PNG or JPEG"),
    "no bytes": (lambda path: b"", "cannot read this bytes as an image .empty: no bytes"),
    "truncated": (lambda path: png().getvalue()[:900], "truncated.*: copy the file again"),
    "closed image": (closed, "cannot read this PngImageFile as an image .*[Cc]losed"),
    "file of text": (
        lambda path: io.StringIO("GIF"),
        "must be open in mode 'rb'; reading it returned a value of type str",
    ),
    "closed file": (closed_file, "cannot read this BytesIO"),
    "floats": (lambda path: PIXELS / 255, r"found float64 \[24, 32, 3\]: scale the values to 0 ... 255"),
    "NaN": (lambda path: np.full((4, 4, 3), np.nan, np.float32), r"found float32 \[4, 4, 3\]: scale"),
    "integers": (lambda path: PIXELS.astype(int), r"found int64 .* convert them with .astype\(np.uint8\)"),
    "truth": (lambda path: PIXELS > 9, "found bool"),
    "channels first": (
        lambda path: PIXELS.transpose(2, 0, 1),
        r"found uint8 \[3, 24, 32\]: move the channels to the end",
    ),
    "five channels": (lambda path: np.zeros((9, 9, 5), np.uint8), r"found uint8 \[9, 9, 5\]: convert it to RGB"),
    "one dimension": (lambda path: np.zeros(4, np.uint8), r"found uint8 \[4\]"),
    "no pixels": (lambda path: np.zeros((0, 4, 3), np.uint8), "an image must have 1 to 89,478,485 pixels"),
    "no pixels in PIL": (lambda path: Image.new("RGB", (0, 4)), "as an image .empty: 0 x 4 pixels"),
    "too many": (
        lambda path: np.broadcast_to(np.uint8(0), (20_000, 10_000, 3)),
        r"found uint8 \[20000, 10000, 3\]: resize it",
    ),
    "32 bits": (lambda path: Image.fromarray(PIXELS[..., 0].astype(np.int32)), "unknown range: image of mode I"),
    "float image": (lambda path: Image.fromarray(np.float32(PIXELS[..., 0])), "unknown range: image of mode F"),
}


@pytest.mark.parametrize("name", INVALID)
def test_one_line_for_an_invalid_image(path, name):
    make, message = INVALID[name]
    with pytest.raises(UserError, match=message) as caught:
        read_image(make(path))
    assert "\n" not in str(caught.value) and "secret" not in str(caught.value)


@pytest.mark.parametrize("images", [None, 3, {"a": PIXELS}, {1, 2}, object()])
def test_one_line_for_an_invalid_collection(images):
    with pytest.raises(UserError, match=r"encode_image was given .*: pass a path") as caught:
        image_items(images)
    assert "\n" not in str(caught.value)


TEXTS = {
    "one": ("a cat", ["a cat"]),
    "list": (["a", "b"], ["a", "b"]),
    "tuple": (("a", "b"), ["a", "b"]),
    "array": (np.array(["a", "bcd"]), ["a", "bcd"]),
    "objects": (np.array(["a", "bcd"], object), ["a", "bcd"]),
    "column": (Column("a", "b"), ["a", "b"]),
    "generator": ((text for text in "ab"), ["a", "b"]),
    "keys": ({"a": 1, "b": 2}.keys(), None),
    "numpy text": (np.str_("a"), ["a"]),
    "empty text": ("", [""]),
}


@pytest.mark.parametrize("name", TEXTS)
def test_texts(name):
    given, expected = TEXTS[name]
    if expected is None:  # a set has no order
        with pytest.raises(UserError, match="a value of type dict_keys: pass a text or a list"):
            text_items(given)
    else:
        assert text_items(given) == expected
        assert all(type(text) is str for text in text_items(expected))


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (None, "encode_text was given None: pass a text or a list of texts"),
        (7, "encode_text was given int 7"),
        (float("nan"), "encode_text was given float nan"),
        (b"a cat", "encode_text was given a value of type bytes"),
        ({"a": 1}, "encode_text was given a value of type dict"),
        ({"a", "b"}, "encode_text was given a value of type set"),
        (np.array("a cat"), "encode_text was given a value of type ndarray"),
        ([], "encode_text was given no texts: pass at least one"),
        (iter(()), "encode_text was given no texts"),
        (np.array([], str), "encode_text was given no texts"),
        (["a", None], "text 1 is None: every text must be a string"),
        (["a", float("nan")], "text 1 is float nan"),
        (["a", 3], "text 1 is int 3"),
        ([b"a"], "text 0 is a value of type bytes"),
        ([["a", "b"]], "text 0 is a value of type list"),
        (np.array([["a"]]), "text 0 is a value of type ndarray"),
        (Column("a", None), "text 1 is None"),
    ],
)
def test_one_line_for_invalid_texts(texts, message):
    with pytest.raises(UserError, match=message) as caught:
        text_items(texts)
    assert "\n" not in str(caught.value)
