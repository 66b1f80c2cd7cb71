"""`config.json` of a run: the resolved config, versions, data, devices and parameter counts."""

import importlib.metadata
import json
import os
import platform
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from rankclip_jax.errors import UserError
from rankclip_jax.files import replaced_file
from rankclip_jax.run_folder import CONFIG

PACKAGES = (
    "rankclip_jax",
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


def to_json(config: ConfigDict | Mapping) -> str:
    """Return `config` as JSON text, sorted and indented; tuples become lists."""
    plain = config.to_dict() if isinstance(config, ConfigDict) else config
    return json.dumps(plain, indent=2, sort_keys=True, default=_plain)


def _plain(value: Any) -> Any:
    """JSON form of what JSON does not know: numpy scalars by value, dtypes and functions by name."""
    if hasattr(value, "item"):
        return value.item()
    return getattr(value, "__name__", None) or str(value)


def versions() -> dict[str, str]:
    """Versions of everything that can change a result; a package that is not there is left out."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def save_run_config(
    workdir: str,
    config: ConfigDict,
    data: Mapping[str, Any],
    devices: Mapping[str, Any],
    params: Mapping[str, Any],
    imported: Mapping[str, Any] | None = None,
) -> None:
    """Write ``workdir/config.json``: all there is to know of how a run came about. Atomic.

    Call it in one process only (`distributed.is_main`).

    Args:
      workdir: run folder, made if missing.
      config: as `resolve` returned it.
      data: what identifies the data (split sizes, digests).
      devices: platform, counts, mesh.
      params: parameter counts per tower.
      imported: where foreign weights came from; None for a run.
    """
    record = {"config": config.to_dict(), "versions": versions(), "data": data}
    record |= {"devices": devices, "params": params} | ({"imported": imported} if imported else {})
    os.makedirs(workdir, exist_ok=True)
    path = os.path.join(workdir, CONFIG)
    with replaced_file(path) as file:
        file.write(to_json(record) + "\n")


def load_run_config(workdir: str) -> dict[str, Any] | None:
    """Return what `save_run_config` wrote, None if there is nothing."""
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
            raise UserError(f"{path} is not what training writes (it has no {part!r}); use another --workdir")
    return record
