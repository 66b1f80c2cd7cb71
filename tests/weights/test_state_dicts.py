"""What training programs leave beside and around a state dict is skipped; several models are an error."""

import zipfile
from collections import OrderedDict

import numpy as np
import pytest
from safetensors.numpy import save_file

from rankclip_jax.errors import UserError
from rankclip_jax.weights.formats.tensor_files import read_tensors
from tests.support import torch_files
from tests.support.torch_files import Archive, Call, Global, Instance

A, SCALE = np.arange(6, dtype=np.float32).reshape(2, 3), np.array(2, np.float32)
PLAIN = {"visual.conv1.weight": A, "logit_scale": SCALE}


def assert_plain(found):
    assert set(found) == set(PLAIN)
    for name, array in PLAIN.items():
        np.testing.assert_array_equal(found[name], array)


PREFIXES = ["module.", "_orig_mod.", "model.", "student.", "module._orig_mod.", "_orig_mod.module.", "net.clip_model."]


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("name", ["x.pt", "x.safetensors"])
def test_common_prefixes_are_removed(tmp_path, name, prefix):
    tensors = {f"{prefix}{key}": x for key, x in PLAIN.items()}
    path = tmp_path / name
    torch_files.save(path, tensors) if name == "x.pt" else save_file(tensors, path)
    assert_plain(read_tensors(path))


def test_wrappers_inside_a_model_are_removed(tmp_path):
    names = {"_fsdp_wrapped_module.visual._orig_mod.conv1.weight": A, "_fsdp_wrapped_module.logit_scale": SCALE}
    assert_plain(read_tensors(torch_files.save(tmp_path / "x.pt", names)))


def test_names_of_a_lone_tower_keep_their_first_component(tmp_path):
    tensors = {"module.visual.proj": A, "module.visual.class_embedding": A[0]}
    found = read_tensors(torch_files.save(tmp_path / "x.pt", tensors))
    assert set(found) == {"visual.proj", "visual.class_embedding"}


def test_counters_beside_an_averaged_model_are_left_out_and_weights_are_not(tmp_path):
    tensors = {f"module.{key}": x for key, x in PLAIN.items()} | {"n_averaged": np.int64(7)}
    assert_plain(read_tensors(torch_files.save(tmp_path / "x.pt", tensors)))
    with pytest.raises(UserError, match=r"holds loss\.weight beside the model, whose prefix is 'module\.'"):
        read_tensors(torch_files.save(tmp_path / "y.pt", tensors | {"loss.weight": A}))
    both = {f"{prefix}{key}": x for prefix in ("student.", "teacher.") for key, x in PLAIN.items()}
    with pytest.raises(UserError, match=r"holds several models, with the prefixes 'student\.', 'teacher\.'"):
        read_tensors(torch_files.save(tmp_path / "z.pt", both))


def extras():
    """Objects as `pickle` writes them, by what they are."""
    dtype = Call(Global("numpy", "dtype"), "f8", False, True)
    return {
        "Namespace": Instance(Global("argparse", "Namespace"), {"lr": 0.1, "paths": [1, 2]}),
        "Counter": Call(Global("collections", "Counter"), {3: 1}),
        "numpy scalar": Call(Global("numpy._core.multiarray", "scalar"), dtype, b"8 bytes!"),
        "Path": Call(Global("pathlib", "PosixPath"), "runs", "x"),
        "device": Call(Global("torch", "device"), "cuda", 0),
        "size": Call(Global("torch", "Size"), [1, 2]),
        "set of devices": {"all": [Call(Global("torch", "device"), "cpu")]},
        "old style": Call(
            Global("copyreg", "_reconstructor"), Global("my.code", "Config"), Global("builtins", "object"), None
        ),
        "function": Global("my.code", "collate"),
        "getattr": Call(Global("builtins", "getattr"), Global("my.code", "Enum"), "x"),
    }


@pytest.mark.parametrize("kind", extras())
def test_objects_beside_a_state_dict_are_skipped(tmp_path, kind):
    archive = Archive()
    state = OrderedDict((key, archive.tensor(x)) for key, x in PLAIN.items())
    content = {"epoch": 3, "state_dict": state, "args": extras()[kind], "optimizer": {"state": {0: archive.tensor(A)}}}
    assert_plain(read_tensors(archive.write(tmp_path / "x.pt", content)))


@pytest.mark.parametrize("key", ["module", "ema", "whatever"])
def test_a_state_dict_is_found_under_any_key(tmp_path, key):
    archive = Archive()
    content = {"dp_world_size": 1, key: {"model": {name: archive.tensor(x) for name, x in PLAIN.items()}}}
    assert_plain(read_tensors(archive.write(tmp_path / "x.pt", content)))


def test_several_state_dicts_under_unknown_keys(tmp_path):
    archive = Archive()
    one, other = ({name: archive.tensor(x) for name, x in PLAIN.items()} for _ in range(2))
    with pytest.raises(UserError, match="holds several state dicts \\('ours', 'theirs'\\)"):
        read_tensors(archive.write(tmp_path / "x.pt", {"ours": one, "theirs": other}))


def test_models_beside_the_one_that_is_read_are_named(tmp_path, capsys):
    archive = Archive()
    one, other, third = ({name: archive.tensor(x) for name, x in PLAIN.items()} for _ in range(3))
    moments = {"state": {0: {"exp_avg": archive.tensor(A)}}}
    content = {"optimizer": moments, "state_dict": one, "state_dict_ema": other, "teacher": {"module": third}}
    assert_plain(read_tensors(archive.write(tmp_path / "x.pt", content)))
    said = "x.pt holds several models: the weights under 'state_dict' are read, not 'state_dict_ema', 'teacher'\n"
    assert capsys.readouterr().err.endswith(said)
    read_tensors(archive.write(tmp_path / "y.pt", {"optimizer": moments, "state_dict": one, "loss": {"w": other}}))
    assert "not 'loss'" in capsys.readouterr().err
    read_tensors(archive.write(tmp_path / "z.pt", {"optimizer": moments, "state_dict": one}))
    assert capsys.readouterr().err == ""


def test_a_name_with_control_characters_is_damage(tmp_path):
    with pytest.raises(UserError, match=r"holds a tensor with the name .*x1b") as caught:
        read_tensors(torch_files.save(tmp_path / "x.pt", PLAIN | {"\x1b[31mred\n": A}))
    assert str(caught.value).isprintable()


def test_a_whole_module(tmp_path):
    archive = Archive()
    conv = Instance(Global("torch.nn", "Conv2d"), {"_parameters": {"weight": archive.tensor(A), "bias": None}})
    tower = Instance(Global("my.code", "Visual"), {"_modules": OrderedDict(conv1=conv), "training": False})
    root = Instance(
        Global("my.code", "CLIP"),
        {"_parameters": {"logit_scale": archive.tensor(SCALE)}, "_buffers": {}, "_modules": {"visual": tower}},
    )
    assert_plain(read_tensors(archive.write(tmp_path / "x.pt", root)))


def test_the_format_before_pytorch_1_6(tmp_path):
    archive = Archive()
    state = OrderedDict((key, archive.tensor(x)) for key, x in PLAIN.items())
    path = archive.write_legacy(tmp_path / "old.pt", {"state_dict": state, "optimizer": {0: archive.tensor(A)}})
    assert_plain(read_tensors(path))
    content = path.read_bytes()
    for length in (20, 200, len(content) - 30, len(content) - 1):
        path.write_bytes(content[:length])
        with pytest.raises(UserError, match="damaged"):
            read_tensors(path)


def test_many_tensors_on_one_storage_are_read_once(tmp_path, monkeypatch):
    """Tensors that overlap more than tied weights do would need many times the memory of the file."""
    archive = Archive()
    first = archive.tensor(np.zeros(1000, np.float32))
    storage = first.args[0]
    parts = {f"{i}": Call(first.function, storage, 10 * i, (10,), (1,), False, OrderedDict()) for i in range(100)}
    reads = []
    read = zipfile.ZipFile.read
    monkeypatch.setattr(zipfile.ZipFile, "read", lambda self, entry: reads.append(entry) or read(self, entry))
    assert len(read_tensors(archive.write(tmp_path / "x.pt", {"a.b": archive.tensor(A), **parts}))) == 101
    assert sum("data/0" in str(entry) for entry in reads) == 1
    whole = {f"{i}": Call(first.function, storage, 0, (1000,), (1,), False, OrderedDict()) for i in range(200)}
    with pytest.raises(UserError, match="its tensors overlap"):
        read_tensors(archive.write(tmp_path / "x.pt", whole))
