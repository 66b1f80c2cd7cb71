"""Atomic writes: after a kill or an error the old content is there, after success the new one is on disk."""

import os
import stat

import pytest

from rankclip_jax.files import atomic
from rankclip_jax.files.atomic import PARTIAL, replaced_file, replaced_folder, replaced_path
from tests.support import processes

WRITE_AND_WAIT = """
import sys, time
from rankclip_jax.files.atomic import replaced_file, replaced_folder, replaced_path
kind, target = sys.argv[1:]
def wait(file):
    file.write("half")
    file.flush()
    print("written", flush=True)
    time.sleep(600)
if kind == "file":
    with replaced_file(target) as file:
        wait(file)
elif kind == "path":
    with replaced_path(target) as path, open(path, "w") as file:
        wait(file)
else:
    with replaced_folder(target) as folder, open(folder / "part", "w") as file:
        wait(file)
"""


def write(kind, target, text):
    if kind == "file":
        with replaced_file(target) as file:
            file.write(text)
    elif kind == "path":
        with replaced_path(target) as path:
            path.write_text(text)
    else:
        with replaced_folder(target) as folder:
            (folder / "part").write_text(text)


def read(target):
    return (target / "part").read_text() if target.is_dir() else target.read_text()


KINDS = pytest.mark.parametrize("kind", ["file", "path", "folder"])


@KINDS
@pytest.mark.parametrize("exists", [True, False])
def test_a_kill_while_writing_leaves_the_old_content(tmp_path, kind, exists):
    target = tmp_path / "target"
    if exists:
        write(kind, target, "old")
    process = processes.start_new(WRITE_AND_WAIT, kind, target)
    assert process.stdout.readline() == "written\n"
    process.kill()
    process.communicate()
    assert (read(target) == "old") if exists else (not target.exists())
    write(kind, target, "new")  # the partial content of the killed process does not disturb
    assert read(target) == "new" and [path.name for path in tmp_path.iterdir()] == ["target"]


@KINDS
def test_an_error_leaves_the_old_content_and_nothing_else(tmp_path, kind):
    target = tmp_path / "target"
    write(kind, target, "old")
    context = {"file": replaced_file, "path": replaced_path, "folder": replaced_folder}[kind]
    with pytest.raises(ValueError), context(target) as new:
        if kind == "file":
            new.write("half")
        else:
            (new / "part" if kind == "folder" else new).write_text("half")
        raise ValueError
    assert read(target) == "old" and [path.name for path in tmp_path.iterdir()] == ["target"]


@pytest.fixture
def calls(monkeypatch):
    """Calls of fsync and rename in their order."""
    found = []
    fsync, replace, rename = os.fsync, os.replace, atomic.Path.rename

    def record_fsync(handle):
        found.append("fsync folder" if stat.S_ISDIR(os.fstat(handle).st_mode) else "fsync file")
        fsync(handle)

    def record_replace(old, new):
        found.append(f"rename {os.path.basename(old)} {os.path.basename(new)}")
        replace(old, new)

    def record_rename(old, new):
        found.append(f"rename {old.name} {new.name}")
        return rename(old, new)

    monkeypatch.setattr(os, "fsync", record_fsync)
    monkeypatch.setattr(os, "replace", record_replace)
    monkeypatch.setattr(atomic.Path, "rename", record_rename)
    return found


@pytest.mark.parametrize("kind", ["file", "path"])
def test_a_file_is_flushed_before_and_its_folder_after_the_rename(tmp_path, calls, kind):
    write(kind, tmp_path / "target", "new")
    assert calls == ["fsync file", f"rename target{PARTIAL} target", "fsync folder"]


def test_a_folder_is_flushed_with_its_files_before_the_rename(tmp_path, calls):
    write("folder", tmp_path / "target", "old")
    assert calls == ["fsync file", "fsync folder", f"rename .target{PARTIAL} target", "fsync folder"]
    calls.clear()
    with replaced_folder(tmp_path / "target") as folder:
        (folder / "inner").mkdir()
        (folder / "inner" / "deep").write_text("new")
    assert calls == [
        "fsync folder",
        "fsync file",
        "fsync folder",
        "rename target .target.replaced",
        f"rename .target{PARTIAL} target",
        "fsync folder",
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["target"]
    assert [path.name for path in (tmp_path / "target").rglob("*")] == ["inner", "deep"]


def test_text_is_utf_8_and_bytes_stay_bytes(tmp_path):
    with replaced_file(tmp_path / "text") as file:
        file.write("é")
    with replaced_file(tmp_path / "bytes", "wb") as file:
        file.write(b"\xff")
    assert (tmp_path / "text").read_bytes() == "é".encode() and (tmp_path / "bytes").read_bytes() == b"\xff"


def test_two_writers_with_different_partial_names_do_not_disturb_each_other(tmp_path):
    target = tmp_path / "target"
    with (
        replaced_file(target, partial=tmp_path / "a") as outer,
        replaced_file(target, partial=tmp_path / "b") as inner,
    ):
        outer.write("outer")
        inner.write("inner")
    assert target.read_text() == "outer"  # its block ends last


def test_a_block_that_writes_no_file_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError), replaced_path(tmp_path / "target"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_missing_folder_is_an_error(tmp_path):
    with pytest.raises(OSError), replaced_file(tmp_path / "none" / "target"):
        pass
