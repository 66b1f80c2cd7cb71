"""Token ids against open_clip's, special tokens, decoding, saving, and the tokenizer trained on captions."""

import json
import random

import numpy as np
import pytest

from rankclip_jax.data.text import tokenizer as module
from rankclip_jax.data.text.tokenizer import TOKENIZERS, Tokenizer, clean, clip_tokenizer, train_tokenizer
from rankclip_jax.errors import UserError
from tests.support import paths

GOLDEN = json.loads((paths.GOLDEN / "tokenizer_clip.json").read_text())
CAPTIONS = [f"a {color} {thing}" for color in ("red", "blue", "green") for thing in ("cat", "dog", "fish", "café")]


@pytest.fixture(scope="module")
def clip():
    return clip_tokenizer()


@pytest.fixture(scope="module")
def trained():
    return train_tokenizer(CAPTIONS * 3, vocab_size=300, context_length=12)


def test_golden_ids_of_open_clip(clip):
    cases = GOLDEN["cases"]
    assert len(cases) >= 100
    tokens = clip([case["text"] for case in cases])
    assert tokens.shape == (len(cases), GOLDEN["context_length"]) and tokens.dtype == np.int32
    for row, case in zip(tokens, cases, strict=True):
        expected = case["ids"] + [0] * (len(row) - len(case["ids"]))
        assert row.tolist() == expected, case["text"]


def test_sizes_and_special_ids_of_clip(clip):
    assert (clip.vocab_size, clip.sot_id, clip.eot_id, clip.context_length) == (49_408, 49_406, 49_407, 77)
    assert clip("a photo of a cat")[0, :7].tolist() == [49406, 320, 1125, 539, 320, 2368, 49407]


def test_literal_special_tokens_are_plain_text(clip):
    """The one difference from open_clip, which ends this caption after two words."""
    row = clip("a cat <end_of_text> on a mat")[0].tolist()
    assert row.count(clip.eot_id) == 1 and row.count(clip.sot_id) == 1
    assert clip.decode(row).replace(" ", "") == "acat<end_of_text>onamat"


@pytest.mark.parametrize("name", ["clip", "trained"])
def test_long_text_keeps_eot_and_pooling_rules_agree(name, request):
    tokenizer = request.getfixturevalue(name)
    tokens = tokenizer(["", "a cat", "a red cat " * 50])
    assert tokens[0, :3].tolist() == [tokenizer.sot_id, tokenizer.eot_id, 0]
    assert tokens[2, -1] == tokenizer.eot_id and (tokens[2] > 0).all()
    np.testing.assert_array_equal(tokens.argmax(1), (tokens == tokenizer.eot_id).argmax(1))
    assert tokens.max() == tokenizer.vocab_size - 1


def test_lengths_are_those_before_cutting(clip):
    fits, cut = "cat " * 75, "cat " * 76
    assert clip.lengths([fits, cut, "cat"]).tolist() == [77, 78, 3]


@pytest.mark.parametrize("name", ["clip", "trained"])
def test_decode_gives_the_cleaned_text(name, request):
    tokenizer = request.getfixturevalue(name)
    for text in ("A red  CAT", "café", "a 😀 fish", "日本"):
        assert tokenizer.decode(tokenizer(text)[0]) == clean(text)


def test_one_text_is_a_batch_of_one(trained):
    np.testing.assert_array_equal(trained("a cat"), trained(["a cat"]))
    assert trained("a cat").shape == (1, 12)


def test_training_does_not_depend_on_the_order_of_captions(tmp_path, trained):
    shuffled = CAPTIONS * 3
    random.Random(0).shuffle(shuffled)
    train_tokenizer(shuffled, 300, 12).save(tmp_path / "shuffled")
    trained.save(tmp_path / "original")
    files = [(tmp_path / name / "tokenizer.json").read_bytes() for name in ("shuffled", "original")]
    assert files[0] == files[1]


def test_training_learns_the_words_of_the_captions(trained):
    assert trained("a blue fish")[0].tolist().index(trained.eot_id) <= 6  # 11 bytes without merges
    assert 258 < trained.vocab_size <= 300


def test_save_and_load(tmp_path, clip, trained):
    for name, tokenizer in (("clip", clip), ("trained", trained)):
        tokenizer.save(tmp_path / name)
        saved = {path.name: path.read_text(encoding="utf-8") for path in (tmp_path / name).iterdir()}
        assert saved == tokenizer.texts()
        loaded = Tokenizer.of_texts(saved, "here")
        assert loaded.vocabulary == tokenizer.vocabulary
        texts = [*CAPTIONS, "Ünïcode &amp; 😀", "x" * 200]
        np.testing.assert_array_equal(loaded(texts), tokenizer(texts))
        assert loaded.vocab_size == tokenizer.vocab_size


def test_registry_builds_both():
    assert TOKENIZERS["clip"](CAPTIONS, 300, 32).vocab_size == 49_408
    assert TOKENIZERS["bpe"](CAPTIONS, 300, 32).context_length == 32


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
def test_damaged_texts_are_an_error_with_their_place(trained, name):
    for damaged in ({name: "{"}, {name: "[]"}, {name: "{}"}):
        with pytest.raises(UserError, match="cannot read the tokenizer in checkpoint 7 "):
            Tokenizer.of_texts(trained.texts() | damaged, "checkpoint 7")


def test_a_tokenizer_without_special_ids_at_the_end_is_rejected(trained):
    texts = trained.texts()
    description = json.loads(texts["tokenizer.json"])
    vocabulary = description["model"]["vocab"]
    vocabulary[module.SOT], vocabulary["!"] = vocabulary["!"], vocabulary[module.SOT]
    with pytest.raises(UserError, match="last two"):
        Tokenizer.of_texts(texts | {"tokenizer.json": json.dumps(description)}, "here")


def test_a_damaged_vocabulary_file_is_an_error(tmp_path, monkeypatch):
    damaged = tmp_path / "vocabulary.gz"
    damaged.write_bytes(module.VOCABULARY.read_bytes()[:-1])
    monkeypatch.setattr(module, "VOCABULARY", damaged)
    module._clip_bpe.cache_clear()
    with pytest.raises(UserError, match="is damaged"):
        clip_tokenizer()


def test_sizes_that_are_too_small_are_rejected():
    with pytest.raises(UserError, match="at least 258"):
        train_tokenizer(CAPTIONS, 257, 12)
    with pytest.raises(UserError, match="at least 3"):
        train_tokenizer(CAPTIONS, 300, 2)
