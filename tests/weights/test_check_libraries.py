"""`weights check` with the real transformers and open_clip. Skipped where torch or open_clip is not installed."""

import json
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from rankclip_jax.errors import UserError
from rankclip_jax.weights.check import check
from rankclip_jax.weights.export import FORMATS, export
from tests.golden.make_weights import FOLDER

pytest.importorskip("torch")
pytestmark = pytest.mark.xdist_group("weights")
LIBRARIES = {"hf": "transformers", "open_clip": "open_clip"}
EXPORTS = [("clip", "hf"), ("siglip", "hf"), ("open_clip", "hf"), ("clip", "open_clip"), ("open_clip", "open_clip")]


def differing(*arguments):
    return {row.what for row in check(*arguments, count=6) if not row.holds}


@pytest.mark.parametrize(("kind", "name"), [("clip", "hf"), ("open_clip", "open_clip")])
def test_a_folder_that_the_library_wrote(kind, name):
    pytest.importorskip(LIBRARIES[name])
    assert differing(FOLDER / kind) == set()


@pytest.mark.parametrize(
    "given",
    [
        {"size": {"shortest_edge": 20}, "crop_size": 16, "resample": 2},
        {"size": {"height": 16, "width": 16}, "do_center_crop": False, "rescale_factor": 1 / 127.5, "image_mean": 1.0},
    ],
)
def test_other_preprocessing(tmp_path, given):
    """Against the image processor that resizes with torchvision; test_processors.py has the one that uses Pillow."""
    pytest.importorskip("torchvision")
    shutil.copytree(FOLDER / "clip", tmp_path / "clip")
    given = {"image_processor_type": "CLIPImageProcessor", "image_std": [0.5] * 3, **given}
    (tmp_path / "clip" / "preprocessor_config.json").write_text(json.dumps(given))
    rows = check(tmp_path / "clip", count=6)
    assert {row.what for row in rows if not row.holds} == set()
    assert all(row.limit < 1 for row in rows if row.what.startswith("pixels")) and rows[-1].what.startswith("pixels, ")


@pytest.mark.parametrize(("kind", "name"), EXPORTS)
def test_an_exported_folder(tmp_path, kind, name):
    pytest.importorskip(LIBRARIES[name])
    export(FOLDER / kind, name, tmp_path / "out")
    rows = check(tmp_path / "out", FOLDER / kind, count=6)
    assert {row.what for row in rows if not row.holds} == set()
    assert rows[-3].what == "pixels"  # the library reads the exported preprocessing too


@pytest.mark.parametrize("name", FORMATS)
def test_changed_weights_are_detected(tmp_path, name):
    pytest.importorskip(LIBRARIES[name])
    export(FOLDER / "clip", name, tmp_path / "out")
    path = tmp_path / "out" / FORMATS[name].weights
    tensors = load_file(path)
    tensors["logit_scale"] = np.asarray(tensors["logit_scale"] + 1)
    save_file(tensors, path, metadata={"format": "pt"})
    assert differing(tmp_path / "out", FOLDER / "clip") == {"logits"}


def test_a_folder_that_the_library_cannot_open(tmp_path):
    export(FOLDER / "clip", "hf", tmp_path / "out")
    (tmp_path / "out" / "model.safetensors").unlink()
    with pytest.raises(UserError, match="transformers cannot open"):
        check(tmp_path / "out", FOLDER / "clip")


def test_weights_whose_names_the_library_does_not_find(tmp_path):
    """transformers ignores them, and would compare random weights."""
    folder = shutil.copytree(FOLDER / "clip", tmp_path / "clip")
    tensors = {k: x for path in sorted(folder.glob("*.safetensors")) for k, x in load_file(path).items()}
    for path in folder.glob("model*"):
        path.unlink()
    save_file({f"module.{key}": x for key, x in tensors.items()}, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match=r"transformers does not find logit_scale and .* would use random values"):
        check(folder)


def test_a_folder_of_sentence_transformers(tmp_path):
    shutil.copytree(FOLDER / "clip", tmp_path / "model" / "0_CLIPModel")
    (tmp_path / "model" / "modules.json").write_text("[]")
    assert differing(tmp_path / "model") == set()
