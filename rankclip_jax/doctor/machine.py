"""Checks that need no device: hardware, versions, processes, optional packages, compiled programs."""

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from rankclip_jax import compilation_cache
from rankclip_jax.doctor.checks import NOTE, OK, Finding
from rankclip_jax.parallel import accelerators, clusters, processes

GiB = 2**30
PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")
PLUGINS = ("libtpu", "jax-cuda12-plugin", "jax-cuda13-plugin", "jax-rocm7-plugin")
NVIDIA_SMI = ("nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader")

# A module of each extra of pyproject.toml, and what the extra is for.
EXTRAS = {
    "gpu": ("jax_cuda12_plugin", "training on NVIDIA GPUs"),
    "tpu": ("libtpu", "training on TPUs, and the planner"),
    "gs": ("gcsfs", "files at gs://"),
    "s3": ("s3fs", "files at s3://"),
    "wandb": ("wandb", "logging to Weights & Biases"),
    "torch": ("torch", "comparisons with PyTorch"),
    "peers": ("open_clip", "python -m rankclip_jax.weights check"),
    "text": ("nltk", "the text augmentation eda"),
    "webdataset": ("webdataset", "a peer in benchmarks"),
    "build": ("resvg_py", "rebuilding the embedded images"),
}


def hardware() -> Finding:
    """CPU, memory, and accelerators as the operating system shows them."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GiB
    found = accelerators.signs()
    signs = "; ".join(f"{kind.upper()}: {sign}" for kind, sign in found.items()) or "no sign of an accelerator"
    values = {"cores": cores, "memory_gib": round(memory, 1), "signs": found, "system": platform.platform()}
    return Finding(OK, f"{cores} CPU cores, {memory:.1f} GiB, {platform.machine()}; {signs}", values)


def versions() -> Finding:
    """Python and the packages that matter."""
    found = {"python": platform.python_version()} | _installed(PACKAGES) | _installed(PLUGINS)
    return Finding(OK, ", ".join(f"{name} {version}" for name, version in found.items()), found)


def _installed(names: tuple[str, ...]) -> dict[str, str]:
    found = {}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def driver() -> Finding:
    """NVIDIA's driver and GPUs, by nvidia-smi."""
    if not shutil.which(NVIDIA_SMI[0]):
        return Finding(OK, "no nvidia-smi: no driver of NVIDIA GPUs")
    done = subprocess.run(NVIDIA_SMI, capture_output=True, text=True, timeout=30)
    lines = done.stdout.strip().splitlines()
    if done.returncode or not lines:
        return Finding(NOTE, f"nvidia-smi fails: {(done.stderr or done.stdout).strip().splitlines()[:1]}")
    return Finding(OK, f"{len(lines)} x {lines[0]}", {"gpus": lines})


def who_am_i(env: Mapping[str, str] = os.environ) -> Finding:
    """Connect to the other processes of this run, if there are any, and say who this one is."""
    processes.initialize()
    label = processes.process_label().strip("[] ")
    if not label:
        return Finding(OK, "one process")
    by = processes.COORDINATOR if env.get(processes.COORDINATOR) else clusters.cluster(env) or "a launcher"
    return Finding(OK, f"{label}, found by {by}", {"label": label, "found_by": by})


def extras() -> Finding:
    """Which optional parts are installed."""
    there = {name: importlib.util.find_spec(module) is not None for name, (module, _) in EXTRAS.items()}
    absent = [name for name, is_there in there.items() if not is_there]
    text = f"installed: {', '.join(name for name in there if there[name]) or 'none'}"
    if absent:
        text += f"; not installed: {', '.join(absent)} (pip install -e '.[NAME]')"
    return Finding(OK, text, {name: {"installed": there[name], "for": EXTRAS[name][1]} for name in EXTRAS})


def compiled_programs(env: Mapping[str, str] = os.environ) -> Finding:
    """The folder of compiled programs."""
    folder = Path(env.get(compilation_cache.FOLDER_VARIABLE) or compilation_cache.default_folder(env))
    sizes = [path.stat().st_size for path in folder.rglob("*") if path.is_file()] if folder.is_dir() else []
    values = {"folder": str(folder), "files": len(sizes), "bytes": sum(sizes)}
    nearest = next(path for path in (folder, *folder.parents) if path.exists())
    if not os.access(nearest, os.W_OK):
        return Finding(NOTE, f"{nearest} cannot be written: every start compiles again", values)
    return Finding(OK, f"{folder}: {len(sizes)} files, {sum(sizes) / 1e6:.0f} MB", values)
