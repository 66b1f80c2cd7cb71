"""Compiled programs on disk: a later run with the same model and options compiles nothing.

JAX keeps them and chooses their names, which cover the program, its options, and the versions of JAX and the compiler.
Here is only the choice of a folder.
"""

import hashlib
import os
import platform
from collections.abc import Mapping
from pathlib import Path

import jax

from rankclip_jax.files.user_cache import user_cache

FOLDER_VARIABLE = "JAX_COMPILATION_CACHE_DIR"  # read by JAX itself
MIN_SECONDS_VARIABLE = "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"
MIN_SECONDS = 0.1  # of compilation, for a program to be kept; JAX's default is 1, but the start has many small programs
CPU_INFO = Path("/proc/cpuinfo")


def enable(env: Mapping[str, str] = os.environ) -> Path | None:
    """Let JAX keep compiled programs in `default_folder`; call it before anything is compiled.

    The user's own settings of JAX, environment variables or `jax.config`, have priority.

    Returns:
      the folder; None if the user chose one, or if it cannot be written: programs are then compiled in every run.
    """
    folder = default_folder(env)
    if env.get(FOLDER_VARIABLE) or jax.config.jax_compilation_cache_dir:
        return None
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return None
    if not os.access(folder, os.W_OK | os.X_OK):
        return None
    jax.config.update("jax_compilation_cache_dir", str(folder))
    if not env.get(MIN_SECONDS_VARIABLE):
        jax.config.update(MIN_SECONDS_VARIABLE.lower(), MIN_SECONDS)
    return folder


def default_folder(env: Mapping[str, str] = os.environ) -> Path:
    """Return the folder ``compiled/CPU`` in the user's cache.

    Machines with different CPUs may share a home folder, and a program for one may not run on another.
    """
    return user_cache("compiled", env) / _cpu()


def _cpu() -> str:
    """Return a short name of this machine's CPU and its instruction sets."""
    try:
        lines = CPU_INFO.read_text(errors="replace").splitlines()
    except OSError:
        lines = []
    kinds = ("model name", "flags", "Features")
    found = sorted({line for line in lines if line.startswith(kinds)}) or [platform.processor()]
    digest = hashlib.sha256("".join(found).encode()).hexdigest()[:8]
    return f"{platform.machine() or 'cpu'}-{digest}"
