"""Rebuilds the sprite sheets and concepts.tsv from npm packages.

    pip install -e '.[build]'
    python -m rankclip_jax.data.emoji.build --out DIR

This needs `npm` and takes about two minutes. The concepts are the emoji in emojibase's English list, in its `order`,
without the groups "component" (skin tones, hair) and "flags". A style has a drawing of a concept if its package lists
the code points or has an image with the name of the concept.
"""

import argparse
import io
import json
import re
import subprocess
import sys
import tarfile
import unicodedata
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from PIL import Image

from rankclip_jax.data.emoji import CELL, COLUMNS, STYLES
from rankclip_jax.data.emoji.catalogue import TABLE_COLUMNS
from rankclip_jax.errors import UserError, install_hint

PACKAGES = {
    "noto": "@iconify-json/noto@1.2.9",
    "noto-v1": "@iconify-json/noto-v1@1.2.5",
    "twemoji": "@iconify-json/twemoji@1.2.5",
    "emojione": "@iconify-json/emojione@1.2.3",
    "fluent-emoji-flat": "@iconify-json/fluent-emoji-flat@1.2.6",
    "text": "emojibase-data@17.0.0",
}
LEFT_OUT_GROUPS = ("component", "flags")
WEBP_QUALITY = 90
SUPERSAMPLE = 2  # rendering at twice the size and reducing it keeps thin lines
SPELLED_OUT = {"*": "asterisk", "#": "hash"}  # in the names of keycaps


@dataclass(frozen=True)
class Style:
    """One icon package: SVG bodies by name, and names by code points if the package has them."""

    icons: dict
    chars: dict[str, str]

    def name_of(self, emoji: dict) -> str | None:
        """Name of the image of an emojibase entry, or None."""
        name = self.chars.get(emoji["hexcode"].replace("-FE0F", "").lower()) or slug(emoji["label"])
        return name if name in self.icons["icons"] or name in self.icons.get("aliases", {}) else None

    def svg(self, name: str) -> str:
        """SVG document of an image; aliases and mirroring are resolved."""
        alias = self.icons.get("aliases", {}).get(name, {})
        icon = self.icons["icons"][alias.get("parent", name)]
        width, height = (icon.get(side, self.icons.get(side, 16)) for side in ("width", "height"))
        body = icon["body"]
        if alias.get("hFlip"):
            body = f'<g transform="translate({width} 0) scale(-1 1)">{body}</g>'
        return (
            '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
            f'viewBox="0 0 {width} {height}" width="{SUPERSAMPLE * CELL}" height="{SUPERSAMPLE * CELL}">'
            f"{body}</svg>"
        )


def slug(label: str) -> str:
    """The image name for a label, such as ``mrs-claus`` for ``"Mrs. Claus"``."""
    for character, word in SPELLED_OUT.items():
        label = label.replace(character, word)
    plain = unicodedata.normalize("NFKD", label).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9]+", "-", plain.replace("'", "")).strip("-")


def fetch(package: str, folder: Path) -> tarfile.TarFile:
    """Download one npm package; `UserError` with npm's last line if the download fails."""
    command = ["npm", "pack", "--silent", "--pack-destination", str(folder), package]
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except FileNotFoundError as error:
        raise UserError("npm is not installed: install Node.js, which includes it.") from error
    if done.returncode:
        reason = (done.stderr.strip() or "no message").splitlines()[-1]
        raise UserError(f"npm pack {package} failed ({reason}): check the network.")
    return tarfile.open(folder / done.stdout.split()[-1])


def read_json(package: tarfile.TarFile, name: str):
    """Parse ``package/<name>`` of an npm package."""
    return json.load(package.extractfile(f"package/{name}"))


def select_emoji(text: tarfile.TarFile) -> list[dict]:
    """The emojibase entries to draw, in order, with group names instead of numbers."""
    # Group numbers are keys of meta/groups.json. They are not positions in messages.json, which repeats a number.
    names = read_json(text, "meta/groups.json")
    emoji = [dict(entry) for entry in read_json(text, "en/data.json") if "group" in entry]
    for entry in emoji:
        for kind in ("group", "subgroup"):
            entry[kind] = names[f"{kind}s"][str(entry[kind])]
    kept = [entry for entry in emoji if entry["group"] not in LEFT_OUT_GROUPS]
    return sorted(kept, key=lambda entry: entry["order"])


def table(emoji: list[dict], styles: dict[str, Style]) -> str:
    """Contents of concepts.tsv."""
    lines = ["\t".join(TABLE_COLUMNS)]
    for cell, entry in enumerate(emoji):
        drawn = ",".join(name for name, style in styles.items() if style.name_of(entry))
        texts = [entry["hexcode"], entry["emoji"], entry["label"], "|".join(entry.get("tags", []))]
        lines.append("\t".join([str(cell), *texts, entry["group"], entry["subgroup"], drawn]))
    return "\n".join(lines) + "\n"


def sheet(emoji: list[dict], style: Style) -> Image.Image:
    """All images of one style on a white grid."""
    pixels = Image.new("RGB", (COLUMNS * CELL, -(-len(emoji) // COLUMNS) * CELL), "white")
    for cell, entry in enumerate(emoji):
        if name := style.name_of(entry):
            row, column = divmod(cell, COLUMNS)
            pixels.paste(render(style.svg(name)), (column * CELL, row * CELL))
    return pixels


def render(svg: str) -> Image.Image:
    """Render an SVG document on white, at CELL x CELL pixels."""
    try:
        import resvg_py
    except ImportError as error:
        raise UserError(f"resvg-py is not installed: {install_hint('build')}.") from error
    # The drawings contain no text, so fonts are not needed.
    drawn = Image.open(io.BytesIO(bytes(resvg_py.svg_to_bytes(svg_string=svg, skip_system_fonts=True))))
    white = Image.new("RGBA", drawn.size, "white")
    white.alpha_composite(drawn.convert("RGBA"))
    return white.convert("RGB").resize((CELL, CELL), Image.Resampling.LANCZOS)


def build(out: Path) -> None:
    """Write concepts.tsv and one sheet per style into `out`."""
    out.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory() as folder:
        packages = {name: fetch(package, Path(folder)) for name, package in PACKAGES.items()}
        emoji = select_emoji(packages["text"])
        styles = {
            name: Style(read_json(packages[name], "icons.json"), read_json(packages[name], "chars.json"))
            for name in STYLES
        }
    (out / "concepts.tsv").write_text(table(emoji, styles), encoding="utf-8")
    for name, style in styles.items():
        sheet(emoji, style).save(out / f"{name}.webp", quality=WEBP_QUALITY)
        print(f"{out / name}.webp: {sum(bool(style.name_of(entry)) for entry in emoji)} drawings", flush=True)


def compare(out: Path, reference: Path) -> None:
    """Print how a build differs from the files in `reference`."""
    same = (out / "concepts.tsv").read_bytes() == (reference / "concepts.tsv").read_bytes()
    print(f"concepts.tsv: {'identical' if same else 'DIFFERENT'}")
    for name in STYLES:
        built, old = (np.asarray(Image.open(d / f"{name}.webp").convert("RGB"), int) for d in (out, reference))
        gap = np.abs(built - old) if built.shape == old.shape else np.array([255])
        print(f"{name}: largest pixel difference {gap.max()}, mean {gap.mean():.2g}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder to write into")
    parser.add_argument("--compare", type=Path, help="folder of an earlier build to compare with")
    arguments = parser.parse_args()
    try:
        build(arguments.out)
        if arguments.compare:
            compare(arguments.out, arguments.compare)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
