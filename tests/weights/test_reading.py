"""Weights files of every format, valid and hostile: arrays or an error of one line, and no code is run."""

import gzip
import json
import pickle
import zipfile
from collections import OrderedDict

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from rankclip_jax.errors import UserError
from rankclip_jax.weights.formats.tensor_files import read_tensors
from tests.support import torch_files
from tests.support.torch_files import Archive, Call, Global, Scripted

A = np.arange(6, dtype=np.float32).reshape(2, 3)
H = np.float16([0.5, -2])


def assert_same(found, expected):
    assert set(found) == set(expected)
    for name, array in expected.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)


def test_safetensors(tmp_path):
    arrays = {"a": A, "b": np.array(3, np.float32), "c": A.astype(ml_dtypes.bfloat16)}
    save_file(arrays, tmp_path / "x.safetensors")
    assert_same(read_tensors(tmp_path / "x.safetensors"), arrays)


def test_a_state_dict(tmp_path):
    assert_same(read_tensors(torch_files.save(tmp_path / "x.pt", {"a": A, "h": H})), {"a": A, "h": H})


def test_strides_and_offsets(tmp_path):
    archive = Archive()
    content = {
        "transposed": archive.tensor(A, shape=(3, 2), strides=(1, 3)),
        "part": archive.tensor(A, shape=(2,), strides=(1,), offset=4),
        "none": archive.tensor(np.zeros(0, np.float32), shape=(0, 3), strides=(3, 1)),
        "number": archive.tensor(np.int64(7)),
    }
    found = read_tensors(archive.write(tmp_path / "x.pt", content))
    assert_same(
        found, {"transposed": A.T, "part": A.ravel()[4:], "none": np.zeros((0, 3), np.float32), "number": np.array(7)}
    )


@pytest.mark.parametrize("key", ["state_dict", "model_state_dict", "model"])
def test_a_training_checkpoint(tmp_path, key):
    archive = Archive()
    moments = {"state": {0: {"exp_avg": archive.tensor(A)}}, "param_groups": [{"lr": 0.1, "params": [0]}]}
    content = {"epoch": 3, "name": "x", key: {"module.a": archive.tensor(A)}, "optimizer": moments}
    assert_same(read_tensors(archive.write(tmp_path / "x.pt", content)), {"a": A})


def test_parameters(tmp_path):
    archive = Archive()
    wrapped = Call(Global("torch._utils", "_rebuild_parameter"), archive.tensor(A), True, OrderedDict())
    assert_same(read_tensors(archive.write(tmp_path / "x.pt", {"a": wrapped})), {"a": A})


def test_a_scripted_module(tmp_path):
    archive = Archive()
    conv = Scripted("torch.nn.Conv2d", training=False, weight=archive.tensor(A), stride=[1, 2])
    root = Scripted("CLIP", visual=Scripted("Visual", conv1=conv), logit_scale=archive.tensor(H), name="ViT")
    assert_same(read_tensors(archive.write(tmp_path / "x.pt", root)), {"visual.conv1.weight": A, "logit_scale": H})


def test_shards(tmp_path):
    save_file({"a": A}, tmp_path / "1.safetensors")
    torch_files.save(tmp_path / "2.bin", {"h": H})
    index = tmp_path / "x.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "1.safetensors", "h": "2.bin"}}))
    assert_same(read_tensors(index), {"a": A, "h": H})
    index.write_text(json.dumps({"weight_map": {"a": "1.safetensors", "h": "3.bin"}}))
    with pytest.raises(UserError, match=r"no weights at .*3\.bin"):
        read_tensors(index)
    index.write_text(json.dumps({"weight_map": {"a": "1.safetensors", "b": "1.safetensors"}}))
    with pytest.raises(UserError, match="lists the tensor 'b', but no file holds it"):
        read_tensors(index)
    index.write_text(json.dumps({"weight_map": {"a": "../1.safetensors"}}))
    with pytest.raises(UserError, match="not a weights file in the same folder"):
        read_tensors(index)


@pytest.mark.parametrize("module, name", [("os", "system"), ("builtins", "eval"), ("torch", "load"), ("numpy", "load")])
def test_code_is_not_run(tmp_path, module, name):
    ran = tmp_path / "ran"
    content = {"a": Archive().tensor(A), "b": Call(Global(module, name), f"touch {ran}")}
    path = Archive().write(tmp_path / "x.pt", content)
    with pytest.raises(
        UserError, match=rf"x\.pt refers to {module}\.{name}, which is not part of a tensor: files with code"
    ):
        read_tensors(path)
    assert not ran.exists()


def test_dotted_names_in_allowed_modules_are_rejected(tmp_path):
    """A dotted name could lead from an allowed module to any other."""
    path = Archive().write(tmp_path / "x.pt", {"b": Call(Global("collections", "OrderedDict.fromkeys"), "ab")})
    with pytest.raises(UserError, match=r"collections\.OrderedDict\.fromkeys, which is not part of a tensor"):
        read_tensors(path)


@pytest.mark.parametrize(
    "view",
    [
        {"shape": (3, 3), "strides": (3, 1)},
        {"shape": (2, 3), "strides": (3, 1), "offset": 1},
        {"shape": (2,), "strides": (1,), "offset": -1},
        {"shape": (2, 2), "strides": (-1, 1)},
        {"shape": (10_000, 10_000), "strides": (0, 0)},
        {"shape": (2, 3), "strides": (1,)},
        {"count": 7},
    ],
)
def test_nothing_outside_a_storage_is_read(tmp_path, view):
    archive = Archive()
    path = archive.write(tmp_path / "x.pt", {"a": archive.tensor(A, **view)})
    with pytest.raises(UserError, match="exceeds its storage"):
        read_tensors(path)


def test_compressed_tensors_are_rejected(tmp_path):
    archive = Archive()
    path = archive.write(tmp_path / "x.pt", {"a": archive.tensor(A)}, zipfile.ZIP_DEFLATED)
    with pytest.raises(UserError, match="holds compressed tensors"):
        read_tensors(path)


@pytest.mark.parametrize("kind, size", [("F8_E4M3", 1), ("F8_E5M2", 1), ("C64", 8)])
def test_types_that_are_not_weights(tmp_path, kind, size):
    header = json.dumps({"a": {"dtype": kind, "shape": [2], "data_offsets": [0, 2 * size]}}).encode()
    path = tmp_path / "x.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(2 * size))
    with pytest.raises(UserError, match=f"a has the type {kind}, which is not supported: give weights in float32"):
        read_tensors(path)
    path = Archive().write(tmp_path / "x.pt", {"b": Call(Global("torch._utils", "_rebuild_tensor_v3"), 1)})
    with pytest.raises(UserError, match="holds a tensor of a type such as fp8: give weights in float32"):
        read_tensors(path)


def cut(path, share):
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    return path


@pytest.mark.parametrize("share", [0.001, 0.3, 0.6, 0.99])
def test_truncated_files(tmp_path, share):
    big = {"a": np.zeros((64, 64), np.float32), "b": A}
    save_file(big, tmp_path / "x.safetensors")
    for path in (tmp_path / "x.safetensors", torch_files.save(tmp_path / "x.pt", big)):
        with pytest.raises(UserError, match=r"truncated or damaged|was not written by torch\.save"):
            read_tensors(cut(path, share))


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("x.pt", b"hello", r"was not written by torch\.save"),
        ("x.pt", b"\x80\x02\x8a\nl\xfc\x9cF", r"is a pickle that torch\.save did not write"),
        ("x.pt", pickle.dumps({"a": A}), r"is a pickle that torch\.save did not write"),
        ("x.gguf", b"GGUF\3\0\0\0" + b"x" * 99, "is a GGUF file, which is not supported"),
        ("x.pt", gzip.compress(b"x" * 99), "is a gzip archive, which is not supported"),
        ("x.pt", b"", "is empty"),
        ("x.safetensors", b"\0" * 600, "is empty"),
        (
            "x.bin",
            b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a",
            "is a pointer of Git LFS .*git lfs pull",
        ),
        ("x.safetensors", b"version https://git-lfs.github.com/spec/v1\n", "is a pointer of Git LFS"),
        ("x.pt", b"\n<!DOCTYPE html><html>", "is a web page instead of weights"),
        ("x.safetensors", b"hello, world", "truncated or damaged"),
        ("x.index.json", b"{", "is damaged"),
        ("x.index.json", b"[]", "holds no JSON object"),
        ("x.index.json", b"{}", "no weight_map"),
        ("x.index.json", b"[" * 100_000, "is damaged"),
        ("x.index.json", b'{"weight_map": {"a": "x.index.json"}}', "not a weights file in the same folder"),
    ],
)
def test_files_without_weights(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        read_tensors(tmp_path / name)


def test_archives_without_weights(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.pt", "w") as file:
        file.writestr("readme.txt", "hello")
    with pytest.raises(UserError, match=r"has no data\.pkl"):
        read_tensors(tmp_path / "x.pt")
    archive = Archive()
    with pytest.raises(UserError, match="holds no named tensors"):
        read_tensors(archive.write(tmp_path / "y.pt", archive.tensor(A)))
    with zipfile.ZipFile(tmp_path / "z.pt", "w") as file:
        file.writestr("archive/data.pkl", b"\x80\x02garbage")
    with pytest.raises(UserError, match=r"its data\.pkl cannot be read"):
        read_tensors(tmp_path / "z.pt")
