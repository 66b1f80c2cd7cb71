"""`config.json` of a run: resolved config, versions, data, devices, parameter counts, the objective's equation."""

import importlib.metadata
import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from rankclip_jax.errors import UserError
from rankclip_jax.files import replaced_file
from rankclip_jax.redact import redacted_values
from rankclip_jax.run_folder import CONFIG

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
CHECKOUT = Path(__file__).resolve().parents[2]
GIT_SECONDS = 10


def to_json(config: ConfigDict | Mapping) -> str:
    """Return `config` as JSON text, sorted and indented; tuples become lists. It has no secrets of URLs."""
    plain = config.to_dict() if isinstance(config, ConfigDict) else config
    return json.dumps(redacted_values(plain), indent=2, sort_keys=True, default=_plain)


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


def _commit() -> str:
    """Output of ``git describe --always --dirty`` in the checkout; "" without a checkout or without git."""
    if not (CHECKOUT / ".git").exists():
        return ""
    command = ["git", "-C", str(CHECKOUT), "describe", "--always", "--dirty"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=GIT_SECONDS, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


def save_run_config(
    workdir: str,
    config: ConfigDict,
    data: Mapping[str, Any],
    devices: Mapping[str, Any],
    params: Mapping[str, Any],
    objective_equation: str | None = None,
    imported: Mapping[str, Any] | None = None,
) -> None:
    """Write ``workdir/config.json``, the record of how a run or an imported folder was made. Atomic.

    Call it in one process only (`processes.is_main`). A missing folder is made.

    Args:
      config: result of `resolve`.
      data: identity of the data (split sizes, digests).
      devices: platform, counts, mesh.
      params: parameter counts per tower.
      objective_equation: `Objective.equation`; None for imported weights.
      imported: source of foreign weights; None for a run.
    """
    record = {"config": config.to_dict(), "versions": versions(), "data": data, "devices": devices, "params": params}
    optional = {"objective_equation": objective_equation, "imported": imported}
    record |= {key: value for key, value in optional.items() if value}
    os.makedirs(workdir, exist_ok=True)
    with replaced_file(os.path.join(workdir, CONFIG)) as file:
        file.write(to_json(record) + "\n")


def load_run_config(workdir: str) -> dict[str, Any] | None:
    """Return the record that `save_run_config` wrote; None if there is no such file.

    Raises:
      UserError: the file is damaged, or is no such record.
    """
    path = os.path.join(workdir, CONFIG)
    try:
        with open(path) as file:
            record = json.load(file)
    except FileNotFoundError:
        return None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is damaged ({error}); use another --workdir") from None
    for part in ("config", "data"):
        if not isinstance(record, dict) or not isinstance(record.get(part), dict):
            raise UserError(f"{path} is not the {CONFIG} of a run (it has no {part!r}); use another --workdir")
    return record
