"""Walks through local folders. Symbolic links may lead back or to one folder twice: each folder is visited once."""

import os
from collections.abc import Iterator, Sequence

# Folders of operating systems and storage servers: previews, deleted files, attributes.
SYSTEM = ("@eaDir", "__MACOSX", "$RECYCLE.BIN", "System Volume Information", "lost+found")


def walk(folder: str) -> Iterator[tuple[str, list[str]]]:
    """Yield (folder, sorted names of its files) for `folder` and all folders below it, links included.

    Hidden files and folders, and folders in `SYSTEM`, are left out. A folder that links lead to is
    visited under its own name if it has one here.
    """
    visited, waiting, links = set(), [folder], []
    while waiting or links:
        base = waiting.pop() if waiting else links.pop(0)
        identity = os.path.realpath(base)
        if identity in visited:
            continue
        visited.add(identity)
        files, inside = [], []
        with os.scandir(base) as entries:
            for entry in entries:
                if not entry.name.startswith(".") and entry.name not in SYSTEM:
                    (inside if entry.is_dir() else files).append(entry.name)
        for name in sorted(inside, reverse=True):
            path = os.path.join(base, name)
            (links if os.path.islink(path) else waiting).append(path)
        yield base, sorted(files)


def first_of_links(paths: Sequence[str]) -> list[str]:
    """`paths` without those that links to folders give a second name; the shortest name is kept, in its place."""
    folders = {folder: os.path.realpath(folder) for folder in {os.path.dirname(path) for path in paths}}
    best: dict[tuple[str, str], str] = {}
    for path in sorted(paths, key=lambda path: (path.count(os.sep), path)):
        folder, name = os.path.split(path)
        best.setdefault((folders[folder], name), path)
    kept = set(best.values())
    return [path for path in paths if path in kept]


def common_folder(files: Sequence[str]) -> str:
    """The deepest folder, local or of a URL, that holds all files."""
    levels = zip(*(os.path.dirname(file).split("/") for file in files), strict=False)
    common = []
    for level in levels:
        if len(set(level)) > 1:
            break
        common.append(level[0])
    return "/".join(common)


def names_below(files: Sequence[str]) -> list[str]:
    """The names of files below their `common_folder`: base names, if all files are in one folder."""
    folder = common_folder(files)
    return [file[len(folder) :].lstrip("/") for file in files]
