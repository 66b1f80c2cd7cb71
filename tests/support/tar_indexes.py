"""Indexes of tars, opened as most tests open them, and which shards are read for that."""

import os
from collections.abc import Sequence

from rankclip_jax.data.tars import build
from rankclip_jax.data.tars.build import open_indexes

PARTS = (("jpg", "jpeg", "png", "webp"), ("txt",))


def opened(files: Sequence[str], **options) -> list[tuple[str, int]]:
    """The name of each shard, and how many samples it has."""
    return [(os.path.basename(tar.file), len(tar.rows)) for tar in open_indexes(files, PARTS, **options)]


def note_scans(monkeypatch) -> list[str]:
    """Names of the shards that are read from now on."""
    read, names = build._Build._scan, []

    def noted(self, name, *rest):
        names.append(name)
        return read(self, name, *rest)

    monkeypatch.setattr(build._Build, "_scan", noted)
    return names
