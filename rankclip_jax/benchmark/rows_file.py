"""Measurements as a JSON list of flat rows: what --json=FILE writes."""

import json
import os
from collections.abc import Sequence

from rankclip_jax.errors import UserError


def check_rows_file(path: str | None) -> None:
    """Refuse a file that cannot be written, before there is anything to write."""
    folder = os.path.dirname(path) or "." if path else "."
    if not os.path.isdir(folder) or not os.access(folder, os.W_OK):
        raise UserError(f"--json={path}: no writable folder {folder!r}; make it, or write elsewhere.")


def write_rows(path: str | None, rows: Sequence[dict]) -> None:
    """Write `rows` as a JSON list, where a file is asked for."""
    if path:
        with open(path, "w") as file:
            json.dump(list(rows), file, indent=2)
            file.write("\n")
