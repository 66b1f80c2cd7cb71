"""Hostile pickles: nothing runs, nothing grows, and the error is one line."""

import pickle
import struct
import time
import zipfile

import pytest

from rankclip_jax.errors import UserError
from rankclip_jax.weights.formats import inert_pickle
from rankclip_jax.weights.formats.tensor_files import read_tensors

DEEP = 200_000


def archive(path, program):
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("archive/data.pkl", b"\x80\x04" + program)
        file.writestr("archive/version", "3\n")
    return path


def nested_dicts(shared):
    """Dictionaries inside each other; each holds the previous one twice if `shared`, 2^60 paths in all."""
    program = b"}q\x00"
    for _ in range(60):
        program += b"}(X\x01\x00\x00\x00ah\x00" + (b"X\x01\x00\x00\x00bh\x00" if shared else b"") + b"uq\x00"
    return program + b"."


PROGRAMS = {
    "lists inside lists": b"]" * DEEP + b"a" * (DEEP - 1) + b".",
    "tuples inside tuples": b")" + b"\x85" * DEEP + b".",
    "a deep tuple as key": b"})" + b"\x85" * DEEP + b"K\x01s.",
    "a deep tuple as element": b"\x8f()" + b"\x85" * DEEP + b"\x90.",
    "a deep tuple in an OrderedDict": b"ccollections\nOrderedDict\n(](" + b")" + b"\x85" * DEEP + b"K\x01\x86etR.",
    "dictionaries inside dictionaries": b"".join(b"}X\x01\x00\x00\x00a" for _ in range(DEEP))
    + b"}"
    + b"s" * DEEP
    + b".",
    "dictionaries shared 2^60 times": nested_dicts(shared=True),
    "an array of 2^40 bytes": b"\x96" + struct.pack("<Q", 1 << 40) + b".",
    "a string of 2^40 bytes": b"\x8d" + struct.pack("<Q", 1 << 40) + b".",
    "a frame of 2^40 bytes": b"\x95" + struct.pack("<Q", 1 << 40) + b".",
    "a memo of 2^31 entries": b"]r" + struct.pack("<I", (1 << 31) - 1) + b".",
    "a long number": b"L" + b"9" * 100_000 + b"L\n.",
    "a state for a function": b"ctorch._utils\n_rebuild_tensor_v2\n}X\x0c\x00\x00\x00__defaults__)sb.",
    "a state for a class": b"ccollections\nOrderedDict\n}X\x0b\x00\x00\x00__setitem__K\x01sb.",
    "an unknown extension": b"\x82\x01.",
    "a name of two lines": b"\x8c\x02os\x8c\x0bsys\ntem\x1b[31m\x93.",
    "a shell": b"cos\nsystem\n(X\x02\x00\x00\x00idtR.",
    "a shell in posix": b"cposix\nsystem\n(X\x02\x00\x00\x00idtR.",
    "eval": b"cbuiltins\neval\n(X\x03\x00\x00\x001+1tR.",
    "no end": b"(((",
    "nothing": b"",
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_one_line(tmp_path, name):
    start = time.process_time()
    with pytest.raises(UserError) as caught:
        read_tensors(archive(tmp_path / "x.pt", PROGRAMS[name]))
    message = str(caught.value)
    assert message.isprintable() and len(message) < 1000
    assert time.process_time() - start < 30
    assert inert_pickle.Ordered([("a", 1)]) == {"a": 1}  # unharmed


def test_objects_beside_tensors_are_limited(tmp_path, monkeypatch):
    monkeypatch.setattr(inert_pickle, "PICKLE_LIMIT", 1000)
    with pytest.raises(UserError, match="of objects beside the tensors"):
        read_tensors(archive(tmp_path / "x.pt", pickle.dumps(list(range(2000)))[2:]))
