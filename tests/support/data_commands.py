"""A folder of sound and broken images, and a function that runs commands of `python -m rankclip_jax.data`."""

import csv
import io
from pathlib import Path

from absl import flags
from PIL import Image

from configs import emoji
from rankclip_jax.data.__main__ import make_tokenizer
from rankclip_jax.data.commands import command_of
from tests.data.images.test_decode import CLEAR, COLOURED, encoded

GOOD = 12


def animation():
    frames = [Image.new("RGB", (40, 30), colour) for colour in ("red", "blue")]
    return encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])


def turned():
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(COLOURED, "JPEG", exif=exif)


LONG = "a word " * 60
ROWS = {
    **{f"good{i}.jpg": (encoded(COLOURED.rotate(i), "JPEG"), f"an image of number {i % 10}") for i in range(GOOD)},
    "cmyk.jpg": (encoded(COLOURED.convert("CMYK"), "JPEG"), "printed"),
    "palette.png": (encoded(COLOURED.quantize(16), "PNG"), "painted"),
    "grey.png": (encoded(COLOURED.convert("L"), "PNG"), "old"),
    "clear.png": (encoded(CLEAR, "PNG"), "glass"),
    "turned.jpg": (turned(), "on its side"),
    "moving.gif": (animation(), "moving"),
    "long.jpg": (encoded(COLOURED, "JPEG"), LONG),
    "cut.jpg": (encoded(COLOURED, "JPEG")[:900], "cut off"),
    "page.jpg": (b"<html>not found</html>", "a page"),
    "pixel.png": (encoded(Image.new("RGB", (1, 1)), "PNG"), "a spacer"),
    "nothing.jpg": (b"", "nothing"),
    "silent.jpg": (encoded(COLOURED, "JPEG"), ""),
    "latin.jpg": (encoded(COLOURED, "JPEG"), "caf\udce9"),
    "gone.jpg": (None, "gone"),
}
BAD = {
    "cut.jpg": "truncated: JPEG of 900 bytes",
    "page.jpg": "unidentified: 22 bytes that begin with b'<html>no'",
    "pixel.png": "tiny: the shorter side is 1 pixels",
    "nothing.jpg": "empty: no bytes",
    "silent.jpg": "caption: the caption is missing or empty",
    "latin.jpg": "caption is not UTF-8",
    "gone.jpg": "image file is missing: ",
}


def write_folder(folder: Path) -> Path:
    """Write the images of ROWS, and ``pairs.csv`` with their names and captions."""
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(["filepath", "caption"])
    for name, (data, caption) in ROWS.items():
        writer.writerow([name, caption])
        if data is not None:
            (folder / name).write_bytes(data)
    (folder / "pairs.csv").write_bytes(text.getvalue().encode("utf-8", "surrogateescape"))
    return folder


def config_of(folder, **data):
    config = emoji.get_config("mu")
    config.data.update({"name": "csv", "train": str(folder / "pairs.csv"), "train_limit": 0, **data})
    config.tokenizer = {"name": "clip", "vocab_size": 0}
    return config


def run_command(capsys, name, config, *arguments) -> str:
    """Run a command in this process; return what it prints."""
    command = command_of(name)
    command.define_flags()
    try:
        flags.FLAGS(["test", *arguments])
        command.run(config, make_tokenizer)
    finally:
        for flag in list(flags.FLAGS.flags_by_module_dict()[command.__name__]):
            delattr(flags.FLAGS, flag.name)
    return capsys.readouterr().out
