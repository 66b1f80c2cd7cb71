"""Checks of storage, local or in a bucket: can it be written, how fast is it, how much is free."""

import os
import shutil
import time
import uuid
from pathlib import Path

import fsspec

from rankclip_jax.doctor.checks import FAILED, NOTE, OK, Finding
from rankclip_jax.terminal.redact import redacted

LOCAL_BYTES, REMOTE_BYTES = 2**26, 2**24  # to write and to read
CHUNK = 2**22
SCARCE = 20 * 2**30  # free bytes of a local disk below which there is a note: one ViT-L/14 checkpoint has 5 GB


def run_folder(location: str) -> Finding:
    """Write a file to `location`, read it, remove it. A folder that does not exist is not made."""
    system, path = fsspec.core.url_to_fs(location)
    local = "file" in system.protocol or "local" in system.protocol
    parent = _nearest(path) if local else path.rstrip("/")
    name, data = f"{parent}/doctor-{uuid.uuid4().hex}", os.urandom(CHUNK)
    count = (LOCAL_BYTES if local else REMOTE_BYTES) // CHUNK
    try:
        begin = time.perf_counter()
        with system.open(name, "wb") as file:
            for _ in range(count):
                file.write(data)
            if local:
                file.flush()
                os.fsync(file.fileno())
        write = count * CHUNK / (time.perf_counter() - begin)
        if local:
            _forget(name)
        read, same = _read_rate(system, name, data)
    finally:
        if system.exists(name):
            system.rm(name)
    if not same:
        return Finding(FAILED, f"a file at {redacted(location)} has other bytes than were written")
    values = {"write_mb_per_second": round(write / 1e6, 1), "read_mb_per_second": round(read / 1e6, 1)}
    text = f"{redacted(location)}: write {write / 1e6:.0f} MB/s, read {read / 1e6:.0f} MB/s"
    return _with_free_space(parent, text, values) if local else Finding(OK, text, values)


def data(location: str) -> Finding:
    """Read the first files of `location`, at most 64 MiB."""
    system, path = fsspec.core.url_to_fs(location)
    files = [path] if system.isfile(path) else sorted(system.find(path, maxdepth=2))
    if not files:
        return Finding(FAILED, f"{redacted(location)} has no files")
    begin, size, opened = time.perf_counter(), 0, 0
    for name in files:
        if size >= LOCAL_BYTES or time.perf_counter() - begin > 10:
            break
        with system.open(name, "rb") as file:
            size += len(file.read(LOCAL_BYTES - size))
        opened += 1
    seconds = time.perf_counter() - begin
    rate = size / 1e6 / seconds
    values = {"mb_per_second": round(rate, 1), "files": opened, "bytes": size}
    return Finding(OK, f"{redacted(location)}: {size / 1e6:.1f} MB of {opened} files, {rate:.0f} MB/s", values)


def _nearest(path: str) -> str:
    """The nearest folder above or at `path` that exists."""
    return str(next(folder for folder in (Path(path), *Path(path).parents) if folder.is_dir()))


def _forget(path: str) -> None:
    """Drop a file from the memory of the operating system, so that it is read from the disk."""
    if hasattr(os, "posix_fadvise"):
        with open(path, "rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _read_rate(system: fsspec.AbstractFileSystem, name: str, data: bytes) -> tuple[float, bool]:
    """Return (bytes per second, whether every chunk is `data`)."""
    with system.open(name, "rb") as file:
        begin, size, same = time.perf_counter(), 0, True
        while chunk := file.read(CHUNK):
            size, same = size + len(chunk), same and chunk == data
    return size / (time.perf_counter() - begin), same and size > 0


def _with_free_space(folder: str, text: str, values: dict) -> Finding:
    free = shutil.disk_usage(folder).free
    status = OK if free > SCARCE else NOTE
    return Finding(status, f"{text}, {free / 1e9:.0f} GB free", values | {"free_gb": round(free / 1e9, 1)})
