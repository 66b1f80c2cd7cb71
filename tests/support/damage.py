"""Damage of files: what editors, disks, copies and people do to them, drawn from a seeded generator."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

VALUES = (None, True, -1, 3, 0.5, 1e999, float("nan"), 10**400, "", "x", "\ud800", [], ["x"], [[1]], {}, {"x": 1})


def empty(path: Path, rng: np.random.Generator) -> None:
    path.write_bytes(b"")


def truncate(path: Path, rng: np.random.Generator) -> None:
    os.truncate(path, rng.integers(max(1, path.stat().st_size)))


def zero_end(path: Path, rng: np.random.Generator) -> None:
    """The last blocks of the file are zeros, or all of it: what a loss of power leaves."""
    size = path.stat().st_size
    first = int(rng.integers(-(size // -512))) * 512 if size else 0
    path.write_bytes(path.read_bytes()[:first] + bytes(size - first))


def flip(path: Path, rng: np.random.Generator) -> None:
    content = bytearray(path.read_bytes())
    for at in rng.integers(len(content), size=rng.integers(1, 5)) if content else ():
        content[at] ^= 1 << rng.integers(8)
    path.write_bytes(content)


def garbage(path: Path, rng: np.random.Generator) -> None:
    path.write_bytes(rng.bytes(int(rng.integers(1, 2000))))


def other_encoding(path: Path, rng: np.random.Generator) -> None:
    text = path.read_bytes().decode("latin-1")
    path.write_bytes(text.encode(["utf-16", "utf-32", "utf-8-sig"][rng.integers(3)]))


def deep(path: Path, rng: np.random.Generator) -> None:
    path.write_text(["[", '{"a":'][rng.integers(2)] * 100_000)


def other_json(path: Path, rng: np.random.Generator) -> None:
    path.write_text(json.dumps(VALUES[rng.integers(len(VALUES))]))


def edited_json(path: Path, rng: np.random.Generator) -> None:
    """One value of a JSON file, or of one line of it, is replaced or removed; other files get a flipped bit."""
    try:
        lines = [json.loads(line) for line in path.read_text().splitlines()]
    except ValueError:
        lines = []
    try:
        content = None if lines else json.loads(path.read_text())
    except ValueError:
        flip(path, rng)
        return
    edit(lines[rng.integers(len(lines))] if lines else content, rng)
    path.write_text("\n".join(map(json.dumps, lines)) + "\n" if lines else json.dumps(content))


def edit(node: Any, rng: np.random.Generator) -> None:
    """Replace or remove a value somewhere in nested dicts and lists."""
    while isinstance(node, dict | list) and node:
        key = list(node)[rng.integers(len(node))] if isinstance(node, dict) else int(rng.integers(len(node)))
        if isinstance(node[key], dict | list) and node[key] and rng.random() < 0.7:
            node = node[key]
        elif rng.random() < 0.3:
            del node[key]
            return
        else:
            node[key] = VALUES[rng.integers(len(VALUES))]
            return


def lost(path: Path, rng: np.random.Generator) -> None:
    path.unlink()


def folder_instead(path: Path, rng: np.random.Generator) -> None:
    path.unlink()
    path.mkdir()


def dangling_link(path: Path, rng: np.random.Generator) -> None:
    path.unlink()
    path.symlink_to("nowhere")


def link_to_itself(path: Path, rng: np.random.Generator) -> None:
    path.unlink()
    path.symlink_to(path.name)


def doubled(path: Path, rng: np.random.Generator) -> None:
    path.write_bytes(path.read_bytes() * 2)


DAMAGES: tuple[Callable[[Path, np.random.Generator], None], ...] = (
    empty,
    truncate,
    zero_end,
    flip,
    garbage,
    other_encoding,
    deep,
    other_json,
    edited_json,
    edited_json,
    lost,
    folder_instead,
    dangling_link,
    link_to_itself,
    doubled,
)


def stray(folder: Path, rng: np.random.Generator) -> str:
    """Something that does not belong into a folder of checkpoints, or a file in place of a folder; return its name."""
    names = (
        "30",
        "030",
        "３０",
        "-1",
        "x",
        ".DS_Store",
        "20.damaged",
        "25.orbax-checkpoint-tmp",
        "999999999999999999999",
    )
    name = names[rng.integers(len(names))]
    if os.path.lexists(folder / name):
        return name
    kind = rng.integers(3)
    if kind == 0:
        (folder / name).write_text("a note")
    elif kind == 1:
        (folder / name).mkdir()
    else:
        (folder / name).symlink_to("nowhere")
    return name
