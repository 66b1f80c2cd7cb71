"""Decoding of images: equal to CLIP's pipeline, and rejected files."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from rankclip_jax.data.images.decode import MAX_PIXELS, DecodedRecords, ImageError, decode
from rankclip_jax.data.images.types import as_array
from rankclip_jax.data.pairs import PairSource


def photo(height=90, width=120, seed=0):
    """A smooth random image, uint8 [H, W, 3]."""
    small = np.random.default_rng(seed).integers(0, 256, (height // 8 + 2, width // 8 + 2, 3), np.uint8)
    return np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))


def encoded(image, format_, **options):
    buffer = io.BytesIO()
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    image.save(buffer, format_, **options)
    return buffer.getvalue()


def plain(data):
    """CLIP's pipeline."""
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def assert_like_clip(data):
    pixels = as_array(decode(data))
    np.testing.assert_array_equal(pixels, plain(data))
    return pixels


COLOURED = Image.fromarray(photo())
CLEAR = COLOURED.copy()
CLEAR.putalpha(Image.fromarray(np.tile(np.arange(120, dtype=np.uint8), (90, 1))))
KINDS = {
    "jpeg": (COLOURED, "JPEG", {}),
    "progressive": (COLOURED, "JPEG", {"progressive": True, "subsampling": 2}),
    "grey jpeg": (COLOURED.convert("L"), "JPEG", {}),
    "cmyk": (COLOURED.convert("CMYK"), "JPEG", {}),
    "png": (COLOURED, "PNG", {}),
    "alpha": (CLEAR, "PNG", {}),
    "grey alpha": (CLEAR.convert("LA"), "PNG", {}),
    "palette": (COLOURED.quantize(64), "PNG", {}),
    "transparent palette": (COLOURED.quantize(64), "PNG", {"transparency": bytes(range(64))}),
    "one bit": (COLOURED.convert("1"), "PNG", {}),
    "webp": (COLOURED, "WEBP", {}),
    "webp alpha": (CLEAR, "WEBP", {}),
    "gif": (COLOURED, "GIF", {}),
    "bmp": (COLOURED, "BMP", {}),
    "tiff": (COLOURED, "TIFF", {}),
    "tiff cmyk": (COLOURED.convert("CMYK"), "TIFF", {}),
    "one pixel": (Image.new("RGB", (1, 1), (7, 8, 9)), "PNG", {}),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_decoded_like_clip(kind):
    image, format_, options = KINDS[kind]
    pixels = assert_like_clip(encoded(image, format_, **options))
    assert pixels.shape == (*image.size[::-1], 3) and pixels.dtype == np.uint8


def test_colours_are_right():
    """Against known colours: the test above compares with a function that could have the same bug."""
    red = Image.new("RGB", (16, 16), (250, 20, 30))
    cmyk, palette, clear = red.convert("CMYK"), red.quantize(4), red.convert("RGBA")
    for image, format_ in ((red, "PNG"), (palette, "GIF"), (cmyk, "JPEG"), (clear, "WEBP")):
        pixels = as_array(decode(encoded(image, format_))).astype(int)
        assert np.abs(pixels - (250, 20, 30)).max() < 12, format_


def test_transparency_is_dropped_and_not_composited():
    clear = Image.new("RGBA", (8, 8), (10, 200, 30, 0))
    assert (as_array(decode(encoded(clear, "PNG"))) == (10, 200, 30)).all()


def png16(pixels):
    """A 16-bit RGB PNG, which Pillow reads but does not write."""
    height, width = pixels.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)

    def chunk(name, content):
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def test_sixteen_bit_colour_keeps_its_high_bytes():
    pixels = np.random.default_rng(0).integers(0, 65536, (5, 7, 3))
    np.testing.assert_array_equal(assert_like_clip(png16(pixels)), pixels >> 8)


@pytest.mark.parametrize("format_", ["GIF", "WEBP", "PNG"])
def test_the_first_frame_of_an_animation(format_):
    frames = [Image.new("RGB", (24, 16), colour) for colour in ((255, 0, 0), (0, 255, 0), (0, 0, 255))]
    data = encoded(frames[0], format_, save_all=True, append_images=frames[1:])
    assert Image.open(io.BytesIO(data)).n_frames == 3
    assert np.abs(assert_like_clip(data).astype(int) - (255, 0, 0)).max() < 8


def test_orientation_is_ignored():
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees
    assert assert_like_clip(encoded(COLOURED, "JPEG", exif=exif)).shape == (90, 120, 3)


@pytest.mark.parametrize("kind", ["jpeg", "progressive", "cmyk", "png", "webp", "gif", "bmp", "tiff"])
def test_truncated_files_are_rejected(kind):
    """For every position of the cut. A cut in the last bytes, such as a PNG's checksum, may leave all pixels intact."""
    image, format_, options = KINDS[kind]
    data = encoded(image, format_, **options)
    for kept in {0, 1, 4, 20, *range(64, len(data), max(1, len(data) // 40)), len(data) - 60}:
        try:
            pixels = as_array(decode(data[:kept]))
        except ImageError:
            continue
        assert kept > len(data) - 20
        np.testing.assert_array_equal(pixels, plain(data))


def test_errors_say_what_is_wrong():
    jpeg = encoded(COLOURED, "JPEG")
    for data, kind, words in (
        (b"", "empty", "no bytes"),
        (b"<html>404</html>", "unidentified", "16 bytes that begin with b'<html>40'"),
        (jpeg[: len(jpeg) // 2], "truncated", "JPEG of"),
        (encoded(COLOURED, "WEBP")[:900], "damaged", "of 900 bytes"),
    ):
        with pytest.raises(ImageError) as caught:
            decode(data)
        assert caught.value.kind == kind and str(caught.value).startswith(kind) and words in str(caught.value)
        assert "0x" not in str(caught.value), "memory addresses differ between runs"


def png_of(width, height):
    """A small file whose header declares many pixels."""
    data = bytearray(encoded(Image.new("1", (1, 1)), "PNG"))
    data[16:24] = struct.pack(">II", width, height)
    data[29:33] = struct.pack(">I", zlib.crc32(bytes(data[12:29])))
    return bytes(data)


@pytest.mark.parametrize("size", [(30_000, 3_000), (100_000, 100_000), (1, MAX_PIXELS + 1)])
def test_decompression_bombs_are_rejected_by_their_header(size):
    with pytest.raises(ImageError) as caught:
        decode(png_of(*size))
    assert caught.value.kind == "too large"


def test_eps_is_rejected_without_running_it():
    with pytest.raises(ImageError, match="unidentified: EPS"):
        decode(encoded(COLOURED, "EPS"))


def test_noise_is_rejected():
    rng = np.random.default_rng(0)
    starts = [encoded(COLOURED, format_)[:40] for format_ in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")]
    for start in starts * 5:
        with pytest.raises(ImageError):
            decode(start + rng.bytes(int(rng.integers(0, 200))))


# ---------------------------------------------------------------- records


def pairs(**more):
    jpeg = encoded(COLOURED, "JPEG")
    images = (jpeg, jpeg[:300])
    methods = {
        "__len__": lambda self: 2,
        "key": lambda self, index: f"shard/{index}",
        "captions": lambda self, index: (f"image {index}", "a second one"),
        "image_bytes": lambda self, index: images[index],
        "digest": lambda self: "0",
    }
    return type("Pairs", (PairSource,), methods | more)()


def test_records_are_pairs_decoded():
    records = DecodedRecords(pairs())
    assert len(records) == 2 and not records.has_second_captions and records.second_captions(0) == ()
    assert records.key(1) == "shard/1" and records.captions(1) == ("image 1", "a second one")
    record = records[0]
    assert (record.key, record.captions, record.second_captions) == ("shard/0", ("image 0", "a second one"), ())
    np.testing.assert_array_equal(np.asarray(record.image), plain(pairs().image_bytes(0)))
    with pytest.raises(ImageError, match="truncated"):
        records[1]


def test_records_have_second_captions_where_the_pairs_do():
    second = {"second_captions": lambda self, index: (f"of a model {index}",)}
    records = DecodedRecords(pairs(has_second_captions=True, **second))
    assert records.has_second_captions
    assert records.second_captions(1) == ("of a model 1",)
    assert records[0].second_captions == ("of a model 0",)
