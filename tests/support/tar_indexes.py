"""Opens indexes of tars as most tests do, and records which shards are scanned."""

import os
from collections.abc import Sequence

from rankclip_jax.data.tars import build
from rankclip_jax.data.tars.build import open_indexes

PARTS = (("jpg", "jpeg", "png", "webp"), ("txt",))


def opened(files: Sequence[str], **options) -> list[tuple[str, int]]:
    """The name and the number of samples of each shard."""
    return [(os.path.basename(tar.file), len(tar.rows)) for tar in open_indexes(files, PARTS, **options)]


def note_scans(monkeypatch) -> list[str]:
    """A list to which the names of shards scanned from now on are added."""
    scan, names = build._Build._scan, []

    def noted(self, name, *rest):
        names.append(name)
        return scan(self, name, *rest)

    monkeypatch.setattr(build._Build, "_scan", noted)
    return names
