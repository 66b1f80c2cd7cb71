"""Weights with random damage: a model, or an error of one line; never a traceback."""

import json
import random
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from rankclip_jax.errors import UserError
from rankclip_jax.weights.formats.source import read_source
from rankclip_jax.weights.formats.tensor_files import read_tensors
from tests.golden.make_weights import FOLDER, OTHERS
from tests.support.limits import Limits
from tests.support.torch_files import Archive

VALUES = (None, -1, 0, 3, 10**9, 10**30, 2.5, float("inf"), "x", "", True, [], {}, [16, 16], ["a"], {"a": 1})
OPCODES = b"Rbstoua0.(2hqKMJ}])\x81\x85\x86\x87\x89\x8f\x90\x93c"
SHORT, LONG = 10, 400  # mutations of each kind


def places(node, path=()):
    """Paths of all values in JSON; lists only at their beginning."""
    for key, value in node.items() if isinstance(node, dict) else enumerate(node[:4]):
        yield (*path, key)
        if isinstance(value, dict | list):
            yield from places(value, (*path, key))


def change_json(folder: Path, rng: random.Random) -> None:
    path = rng.choice(sorted(folder.glob("*.json")))
    content = json.loads(path.read_text())
    *parents, last = rng.choice(list(places(content)))
    node = content
    for key in parents:
        node = node[key]
    node[last] = rng.choice(VALUES)
    path.write_text(json.dumps(content))


def change_tensors(folder: Path, rng: random.Random) -> None:
    path = sorted(folder.glob("*.safetensors"))[0]
    tensors = load_file(path)
    name = rng.choice(sorted(tensors))
    x = tensors[name]
    empty, many = np.zeros(0, x.dtype), np.zeros((1,) * 5, x.dtype)
    tensors[name] = rng.choice([x.reshape(-1), x[..., None], x * np.nan, x.astype(np.int64), x.T, empty, many])
    if rng.random() < 0.3:
        del tensors[rng.choice(sorted(tensors))]
    save_file({key: np.ascontiguousarray(x) for key, x in tensors.items()}, path)


def change_bytes(folder: Path, rng: random.Random) -> None:
    path = rng.choice([path for path in sorted(folder.iterdir()) if path.suffix in (".safetensors", ".bin")])
    content = bytearray(path.read_bytes())
    for _ in range(rng.randrange(1, 4)):
        at = rng.randrange(rng.choice((100, len(content))))
        content[at : at + rng.randrange(3)] = rng.randbytes(rng.randrange(3))
    path.write_bytes(content[: rng.choice((None, rng.randrange(len(content))))])


def change_pickle(folder: Path, rng: random.Random) -> None:
    path = folder / "open_clip_pytorch_model.bin"
    with zipfile.ZipFile(path) as archive:
        entries = {entry.filename: archive.read(entry) for entry in archive.infolist()}
    name = next(name for name in entries if name.endswith("data.pkl"))
    program = bytearray(entries[name])
    for _ in range(rng.randrange(1, 5)):
        at = rng.randrange(len(program))
        program[at : at + rng.randrange(4)] = bytes(rng.choices(OPCODES, k=rng.randrange(3)))
    with zipfile.ZipFile(path, "w") as archive:
        for key, content in (entries | {name: bytes(program)}).items():
            archive.writestr(key, content)


def change_checkpoint(folder: Path, rng: random.Random) -> None:
    """The weights in a checkpoint of a training program, in one of its forms, with mistakes."""
    path, archive = folder / "open_clip_pytorch_model.bin", Archive()
    given = read_tensors(path)
    prefixes = rng.choice((("module.",), ("_orig_mod.module.",), ("", "module."), ("student.", "teacher.")))
    names = {name: f"{rng.choice(prefixes)}{name}" for name in given}
    tensors = {names[name]: archive.tensor(x.astype(rng.choice((np.float32, np.float16)))) for name, x in given.items()}
    for _ in range(rng.randrange(3)):
        changed = rng.choice(sorted(tensors, key=str))
        name = rng.choice((changed, f"{changed}.x", "head.weight", "\x1b[2J", 3))
        tensors[name] = rng.choice((*VALUES, tensors[changed]))
    found = {"epoch": 3, "optimizer": {"state": {0: {"exp_avg": archive.tensor(np.zeros(3, np.float32))}}}}
    for key in rng.choice((("state_dict",), ("model", "ema"), ("checkpoint", "model"), ("a", "b"), ("module",))):
        found = {**found, key: tensors} if rng.random() < 0.5 else {key: {**found, "weights": tensors}}
    (archive.write if rng.random() < 0.5 else archive.write_legacy)(path, found)
    if rng.random() < 0.5:
        content = bytearray(path.read_bytes())
        content[rng.randrange(rng.choice((100, 5000, len(content))))] ^= 1 << rng.randrange(8)
        path.write_bytes(content[: rng.choice((None, rng.randrange(len(content))))])


CHANGES = {
    "json": (change_json, ("clip", "siglip", "open_clip", *OTHERS)),
    "tensors": (change_tensors, ("clip", "siglip", *OTHERS)),
    "bytes": (change_bytes, ("clip", "siglip", "open_clip", *OTHERS)),
    "pickle": (change_pickle, ("open_clip",)),
    "checkpoint": (change_checkpoint, ("open_clip",)),
}


def mutate(tmp_path, kind, seed, limits):
    """Damage a folder and read it; return how it ended."""
    change, folders = CHANGES[kind]
    rng = random.Random(seed)
    folder = tmp_path / "weights"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(FOLDER / rng.choice(folders), folder)
    change(folder, rng)
    try:
        with limits.of(f"seed {seed}"):
            read_source(folder)
    except UserError as error:
        assert str(error).isprintable() and len(str(error)) < 1000, f"seed {seed}: {error!r}"
        return "error"
    return "read"


@pytest.mark.parametrize("kind", CHANGES)
@pytest.mark.parametrize("count", [SHORT, pytest.param(LONG, marks=pytest.mark.slow)])
def test_mutated_weights(tmp_path, kind, count):
    limits = Limits()
    ends = [mutate(tmp_path, kind, seed, limits) for seed in range(count)]
    assert ends.count("error") >= max(1, count / 4)
    limits.show()
