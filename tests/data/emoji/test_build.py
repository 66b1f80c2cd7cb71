"""The script that rebuilds the embedded data, on small packages written here."""

import io
import json
import subprocess
import sys
import tarfile
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from rankclip_jax.data.emoji import build
from rankclip_jax.errors import UserError

GROUPS = {
    "groups": {"0": "food-drink", "1": "component", "2": "flags"},
    "subgroups": {"0": "food-fruit", "1": "hair-style", "2": "keycap"},
}
EMOJI = [
    {"label": "regional indicator", "hexcode": "1F1E6", "emoji": "A"},
    {"label": "keycap: #", "hexcode": "0023-FE0F-20E3", "emoji": "#", "order": 9, "group": 0, "subgroup": 2},
    {"label": "red apple", "hexcode": "1F34E", "emoji": "a", "order": 3, "group": 0, "subgroup": 0,
     "tags": ["apple", "fruit"]},
    {"label": "red hair", "hexcode": "1F9B0", "emoji": "h", "order": 1, "group": 1, "subgroup": 1},
    {"label": "chequered flag", "hexcode": "1F3C1", "emoji": "f", "order": 2, "group": 2, "subgroup": 0},
    {"label": "piñata", "hexcode": "1FA85", "emoji": "p", "order": 4, "group": 0, "subgroup": 0},
]  # fmt: skip


def packed(**files):
    """A tar archive laid out as npm packs one."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as archive:
        for name, content in files.items():
            text = json.dumps(content).encode()
            info = tarfile.TarInfo(f"package/{name.replace('__', '/')}.json")
            info.size = len(text)
            archive.addfile(info, io.BytesIO(text))
    return tarfile.open(fileobj=io.BytesIO(data.getvalue()))


@pytest.fixture
def emoji():
    return build.select_emoji(packed(meta__groups=GROUPS, en__data=EMOJI))


def style(chars=None, aliases=None, **icons):
    icons = {name: {"body": body} for name, body in icons.items()}
    return build.Style({"icons": icons, "aliases": aliases or {}, "width": 10, "height": 10}, chars or {})


def test_selection_leaves_out_parts_and_flags_and_follows_the_order(emoji):
    assert [entry["label"] for entry in emoji] == ["red apple", "piñata", "keycap: #"]
    assert [(entry["group"], entry["subgroup"]) for entry in emoji][::2] == [
        ("food-drink", "food-fruit"),
        ("food-drink", "keycap"),
    ]


def test_table_lists_the_styles_that_draw_a_concept(emoji):
    styles = {
        "by-code": style(chars={"23-20e3": "x", "0023-20e3": "hash-key"}, **{"hash-key": "", "red-apple": ""}),
        "by-name": style(pinata="", aliases={"red-apple": {"parent": "pinata"}}),
    }
    rows = [line.split("\t") for line in build.table(emoji, styles).splitlines()]
    assert rows[0] == list(build.TABLE_COLUMNS)
    assert rows[1] == ["0", "1F34E", "a", "red apple", "apple|fruit", "food-drink", "food-fruit", "by-code,by-name"]
    assert [row[-1] for row in rows[2:]] == ["by-name", "by-code"]


@pytest.mark.parametrize(
    ("label", "slug"),
    [("Mrs. Claus", "mrs-claus"), ("piñata", "pinata"), ("keycap: *", "keycap-asterisk"), ("man’s hat", "mans-hat")],
)
def test_slug(label, slug):
    assert build.slug(label) == slug


def test_sheet_puts_each_drawing_into_its_cell(emoji, monkeypatch):
    monkeypatch.setattr(build, "render", lambda svg: Image.new("RGB", (64, 64), "red" if "apple" in svg else "blue"))
    pixels = np.asarray(build.sheet(emoji, style(pinata="<b/>", **{"red-apple": "<apple/>"})))
    assert pixels.shape == (64, 42 * 64, 3)
    apple, pinata, keycap = (pixels[:, 64 * i : 64 * (i + 1)] for i in range(3))
    assert (apple == (255, 0, 0)).all() and (pinata == (0, 0, 255)).all() and (keycap == 255).all()


def test_svg_resolves_aliases_mirrors_and_keeps_the_shape():
    drawn = style(aliases={"right": {"parent": "left", "hFlip": True}, "same": {"parent": "left"}}, left="<path/>")
    drawn.icons["icons"]["left"]["height"] = 8
    assert drawn.svg("same") == drawn.svg("left")
    assert 'viewBox="0 0 10 8" width="128" height="128"><path/></svg>' in drawn.svg("left")
    assert '<g transform="translate(10 0) scale(-1 1)"><path/></g></svg>' in drawn.svg("right")


def test_a_missing_renderer_or_npm_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "resvg_py", None)
    with pytest.raises(UserError, match=r"pip install -e '\.\[build\]'"):
        build.render("<svg/>")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="npm is not installed"):
        build.fetch("some-package@1.0.0", tmp_path)
    failed = SimpleNamespace(returncode=1, stdout="", stderr="line\nno such package")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: failed)
    with pytest.raises(UserError, match=r"npm pack some-package@1.0.0 failed \(no such package\)"):
        build.fetch("some-package@1.0.0", tmp_path)
