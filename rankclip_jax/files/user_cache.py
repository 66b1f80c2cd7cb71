"""The folder for files that can be made again: indexes of tars, compiled programs."""

import os
from collections.abc import Mapping
from pathlib import Path


def user_cache(name: str, env: Mapping[str, str] = os.environ) -> Path:
    """Return the folder `name` in the user's cache, by the XDG base directory specification; it may not exist."""
    base = env.get("XDG_CACHE_HOME", "")
    if not os.path.isabs(base):  # unset or, by the specification, invalid
        base = os.path.join(os.path.expanduser("~"), ".cache")
    return Path(base) / "rankclip_jax" / name
