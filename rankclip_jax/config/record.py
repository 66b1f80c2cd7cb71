"""`config.json` of a run: resolved config, versions, data, devices, parameter counts, the objective's equation."""

import hashlib
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from rankclip_jax.files.atomic import replaced_file
from rankclip_jax.files.json_files import EACH, read_json
from rankclip_jax.run_folder import CONFIG
from rankclip_jax.terminal.redact import redacted_values

PACKAGES = (
    "jax",
    "jaxlib",
    "flax",
    "optax",
    "orbax-checkpoint",
    "grain",
    "ml_collections",
    "numpy",
    "pillow",
    "pillow-simd",
    "nltk",
    "tokenizers",
)
# The package this file is in. It cannot be imported by name: its public API depends on higher layers.
OWN = sys.modules[__name__.partition(".")[0]]
# Types of what the package reads from a record. A checkpoint's copy of the record has all keys and types of a run.
TOWER = {"tower": ""}
LIKE = {
    "config": {"duration?": 0, "batch_size?": 0, "model?": {"image": TOWER, "text": TOWER}},
    "data": {"name?": "", "digest?": "", "counts?": {EACH: 0}},
    "devices?": {"kind?": "", "platform?": "", "count?": 0},
    "params?": {EACH: 0},
    "versions?": {EACH: ""},
    "objective_equation?": "",
    "changes?": [{"step": 0, "changed": {EACH: {}}}],  # see `history`
}
CHECKOUT = Path(__file__).resolve().parents[2]
GIT_SECONDS = 10


def to_json(config: ConfigDict | Mapping) -> str:
    """Return `config` as JSON text, sorted and indented; tuples become lists. It has no secrets of URLs."""
    plain = config.to_dict() if isinstance(config, ConfigDict) else config
    return json.dumps(redacted_values(plain), indent=2, sort_keys=True, default=_plain)


def as_json(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return `record` as ``config.json`` represents it; values are plain, and `ConfigDict`s are not allowed."""
    return json.loads(to_json(record))


def _plain(value: Any) -> Any:
    """JSON form of other types: the value of numpy scalars, the name of dtypes and functions."""
    if isinstance(value, np.generic):
        return value.item()
    return getattr(value, "__name__", None) or str(value)


def versions() -> dict[str, str]:
    """Versions of everything that can change a result.

    Keys are "python", "rankclip_jax", the installed packages among `PACKAGES`, and "commit" in a git checkout.
    """
    found = {"python": platform.python_version(), "rankclip_jax": OWN.__version__}
    for package in PACKAGES:
        with suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    commit = _commit()
    return found | ({"commit": commit} if commit else {})


def code_digest() -> str:
    """Digest of the package's own Python files: two checkouts with changes have the same commit, and other code."""
    digest, folder = hashlib.sha256(), Path(OWN.__file__).parent
    for path in sorted(folder.rglob("*.py")):
        digest.update(f"{path.relative_to(folder)}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def _commit() -> str:
    """Output of ``git describe --always --dirty`` in the checkout; "" without a checkout or without git."""
    if not (CHECKOUT / ".git").exists():
        return ""
    command = ["git", "-C", str(CHECKOUT), "describe", "--always", "--dirty"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=GIT_SECONDS, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


def run_record(
    config: ConfigDict,
    data: Mapping[str, Any],
    devices: Mapping[str, Any],
    params: Mapping[str, Any],
    objective_equation: str | None = None,
    imported: Mapping[str, Any] | None = None,
    changes: Sequence[Mapping[str, Any]] = (),
) -> dict[str, Any]:
    """Return the record of how a run or an imported folder was made, the content of ``config.json``.

    Args:
      config: result of `resolve`.
      data: identity of the data (split sizes, digests).
      devices: platform, counts, mesh.
      params: parameter counts per tower.
      objective_equation: `Objective.equation`; None for imported weights.
      imported: source of foreign weights; None for a run.
      changes: history of a run that was changed on purpose, see `history`.
    """
    record = {"config": config.to_dict(), "versions": versions(), "data": data, "devices": devices, "params": params}
    optional = {"objective_equation": objective_equation, "imported": imported, "changes": list(changes)}
    return record | {key: value for key, value in optional.items() if value}


def write_record(workdir: str | Path, record: Mapping[str, Any]) -> None:
    """Write ``workdir/config.json`` atomically. A missing folder is made. Call it in the main process only."""
    os.makedirs(workdir, exist_ok=True)
    with replaced_file(os.path.join(workdir, CONFIG)) as file:
        file.write(to_json(record) + "\n")


def load_run_config(workdir: str | Path) -> dict[str, Any] | None:
    """Return the record that `write_record` wrote; None if there is no such file.

    Raises:
      UserError: the file is damaged, or is no such record.
    """
    return read_json(os.path.join(workdir, CONFIG), LIKE, "restore it, or use another folder")
