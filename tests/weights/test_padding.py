"""An exported text tower that reads padding gets the same embeddings from the tokenizer in its folder."""

import jax
import numpy as np
import pytest
import transformers

from rankclip_jax.checkpoints.weights import Weights
from rankclip_jax.data.text.tokenizer import clip_tokenizer, train_tokenizer
from rankclip_jax.inference.load import encoder_of
from rankclip_jax.inference.model import Model
from rankclip_jax.models.presets import SIGLIP_IMAGE, SIGLIP_TEXT, get_preset
from rankclip_jax.models.two_towers import build_towers
from rankclip_jax.weights import export as exporting
from rankclip_jax.weights.check import check
from rankclip_jax.weights.formats.source import read_source
from tests.golden.make_weights import CAPTIONS

pytestmark = pytest.mark.xdist_group("weights")
TEXTS = ["a cat!", "!", "two dogs", "the red face of a small dog! and the flag of a very large country"]


def siglip_like(tokenizer_name, image=SIGLIP_IMAGE):
    """A model with towers like SigLIP's, random weights, and a tokenizer of this package."""
    config = get_preset("mu")
    config.image.update({"image_size": 32, **image})
    config.text.update({"context_length": 12, "layers": 1, **SIGLIP_TEXT})
    config.embed_dim = 32
    tokenizer = clip_tokenizer(12) if tokenizer_name == "clip" else train_tokenizer(CAPTIONS, 270, 12)
    towers = build_towers(config, tokenizer.vocab_size, tokenizer.eot_id)
    images, tokens = np.zeros((1, 32, 32, 3), np.uint8), np.zeros((1, 12), np.int32)
    params = jax.jit(towers.init)(jax.random.key(0), images, tokens)["params"]
    scalars = {"logit_scale": np.float32(2), "logit_bias": np.float32(-1)}
    return Model(config, Weights({"towers": jax.device_get(params), "scalars": scalars}, {}), tokenizer, 0, "run", "x")


@pytest.fixture(scope="module", params=["bpe", "clip"])
def exported(request, tmp_path_factory):
    model, out = siglip_like(request.param), tmp_path_factory.mktemp("padding") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exporting, "read_model", lambda source, step: model)
        exporting.export("run", "hf", out)
    return model, out


def test_padding_has_the_embedding_that_it_had_in_training(exported):
    model, out = exported
    tokenizer = transformers.AutoTokenizer.from_pretrained(out)
    inputs = tokenizer(TEXTS, padding="max_length", truncation=True, return_tensors="np")
    assert list(inputs) == ["input_ids"]  # with a mask, SiglipModel would not read the padding
    pad = model.tokenizer.vocab_size
    assert tokenizer.pad_token_id == pad and (inputs["input_ids"] == pad).any()
    ours = model.tokenizer(TEXTS)
    np.testing.assert_array_equal(np.where(inputs["input_ids"] == pad, 0, inputs["input_ids"]), ours)
    tensors = exporting.FORMATS["hf"].writer.tensors(model)[0]
    rows = tensors["text_model.embeddings.token_embedding.weight"]
    assert len(rows) == pad + 1
    np.testing.assert_array_equal(rows[pad], rows[0])


def test_the_exported_folder_is_read_as_the_same_model(exported):
    model, out = exported
    again = read_source(out)
    assert again.tokenizer.vocabulary == model.tokenizer.vocabulary and again.config.text == model.config.text
    same = jax.tree.map(np.array_equal, again.weights.params, model.weights.params)
    assert all(jax.tree.leaves(same))


def test_transformers_computes_the_same_when_it_is_used_as_the_card_says(exported):
    torch = pytest.importorskip("torch")
    model, out = exported
    theirs = transformers.SiglipModel.from_pretrained(out).eval()
    inputs = transformers.AutoTokenizer.from_pretrained(out)(
        TEXTS, padding="max_length", truncation=True, return_tensors="pt"
    )
    with torch.no_grad():
        found = theirs.get_text_features(**inputs)
    found = getattr(found, "pooler_output", found).numpy()
    found /= np.linalg.norm(found, axis=1, keepdims=True)
    np.testing.assert_allclose(found, encoder_of(model).encode_text(TEXTS), atol=1e-5)


@pytest.mark.parametrize("name", ["bpe", "clip"])
def test_open_clip_computes_the_same(tmp_path, monkeypatch, name):
    pytest.importorskip("open_clip")
    model = siglip_like(name, image={"activation": "gelu"})
    monkeypatch.setattr(exporting, "read_model", lambda source, step: model)
    monkeypatch.setattr("rankclip_jax.weights.check.read_model", lambda source, step: model)
    exporting.export("run", "open_clip", tmp_path / "out")
    assert [row.what for row in check(tmp_path / "out", "run", count=6) if not row.holds] == []
