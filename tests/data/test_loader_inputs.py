"""The loader makes the inputs of objectives, and no others: second captions and second views."""

import functools

import numpy as np
import pytest

from rankclip_jax.data.images.transforms import make_augment
from rankclip_jax.data.loader import STRIDE
from rankclip_jax.data.sources import emoji
from rankclip_jax.data.sources.options import EmojiOptions
from rankclip_jax.data.text.augment import make_text_augment
from rankclip_jax.data.text.tokenizer import train_tokenizer
from tests.support.loaders import make_loader
from tests.support.two_captions import AUGMENT, PLAIN, TEXT, Source

# One worker for all: the tests share compiled functions.
pytestmark = pytest.mark.xdist_group("inputs")

EVERYTHING = (*PLAIN, "caption_tokens", "augmented_images", "augmented_tokens")


@functools.cache
def tokenizer():
    return train_tokenizer(["number image the drawing of sketch a drawn"] * 2, 300, 24)


def take(keys, steps=4, source=None, **options):
    """Batches of some steps, stacked by key."""
    defaults = {
        "batch_size": 24,
        "seed": 3,
        "image_size": 12,
        "augment": AUGMENT,
        "text_augment": TEXT,
        "num_threads": 0,
    }
    with make_loader(source or Source(), tokenizer(), keys=(*keys, "index"), **(defaults | options)) as loader:
        batches = [next(loader) for _ in range(steps)]
    return {key: np.stack([batch[key] for batch in batches]) for key in batches[0]}


def assert_same(left, right):
    assert set(left) == set(right)
    for key, value in left.items():
        np.testing.assert_array_equal(value, right[key], err_msg=key)


def test_only_the_keys_asked_for_are_made_and_no_key_changes_another():
    plain, everything = take(PLAIN), take(EVERYTHING)
    assert set(plain) == {*PLAIN, "index"}
    assert_same(plain, {key: everything[key] for key in plain})
    for extra in ("caption_tokens", "augmented_images", "augmented_tokens"):
        assert_same({extra: take((*PLAIN, extra))[extra]}, {extra: everything[extra]})


def test_second_captions_belong_to_their_images_and_vary():
    batch = take(EVERYTHING, steps=8)
    assert batch["caption_tokens"].dtype == np.int32
    found = set()
    for tokens, index in zip(batch["caption_tokens"].reshape(-1, 24), batch["index"].ravel(), strict=True):
        found.add(Source().second_captions(index).index(tokenizer().decode(tokens)))
    assert found == {0, 1, 2}
    # It has its own random numbers: the second part of an example.
    for row, (tokens, index) in enumerate(zip(batch["caption_tokens"][2], batch["index"][2], strict=True)):
        rng = np.random.Generator(np.random.Philox(key=3, counter=[0, row, 2, 1]))
        assert tokenizer().decode(tokens) == Source().second_captions(index)[rng.integers(3)]


def test_the_second_view_is_another_draw_of_the_same_image():
    batch = take(EVERYTHING)
    first, second = (batch[key].reshape(-1, 12, 12, 3) for key in ("images", "augmented_images"))
    assert second.dtype == np.uint8
    assert all(not np.array_equal(a, b) for a, b in zip(first, second, strict=True))
    still = take(EVERYTHING, augment="none")
    np.testing.assert_array_equal(still["images"], still["augmented_images"])
    # It has its own random numbers: the third part of step 2, row 5.
    rng = np.random.Generator(np.random.Philox(key=3, counter=[0, 5, 2, 2]))
    image = Source()[batch["index"][2, 5]].image
    np.testing.assert_array_equal(batch["augmented_images"][2, 5], make_augment(AUGMENT, 12)(image, rng))


def test_views_may_have_augmentations_of_their_own():
    plain = {"augment": "none", "text_augment": "none"}
    own = plain | {"view_augment": "flip(probability=1)", "view_text_augment": "eda(synonyms=0)"}
    batch = take(EVERYTHING, **own)
    for key in PLAIN:
        assert_same({key: batch[key]}, {key: take(EVERYTHING, **plain)[key]})
    np.testing.assert_array_equal(batch["augmented_images"], batch["images"][:, :, :, ::-1])
    changed = (batch["augmented_tokens"] != batch["tokens"]).any(axis=2)
    assert changed.mean() > 0.3


def test_an_augmented_caption_is_drawn_for_its_row():
    batch = take(EVERYTHING)
    text = make_text_augment("eda(synonyms=0)")
    for key, part in (("tokens", 3), ("augmented_tokens", 4)):
        for row in range(24):
            captions = Source().captions(batch["index"][1, row])
            rng = np.random.Generator(np.random.Philox(key=3, counter=[0, row, 1, part]))
            first = np.random.Generator(np.random.Philox(key=3, counter=[0, row, 1, 0]))
            expected = text(captions[first.integers(2)], rng)
            assert tokenizer().decode(batch[key][1, row]) == expected


def test_extras_are_the_same_for_any_threads_processes_and_starts():
    whole = take(EVERYTHING)
    assert_same(whole, take(EVERYTHING, num_threads=2, prefetch=3))
    assert_same({key: x[2:] for key, x in whole.items()}, take(EVERYTHING, steps=2, start_step=2))
    parts = [take(EVERYTHING, process_index=i, process_count=2) for i in range(2)]
    assert_same(whole, {key: np.concatenate([part[key] for part in parts], axis=1) for key in whole})


def test_a_record_without_its_second_caption_is_replaced():
    source = Source(without=(17,))
    options = {"source": source, "batch_size": 100, "steps": 1, "max_bad_fraction": 0.5}
    assert sorted(take(PLAIN, **options)["index"][0]) == list(range(100))
    index = take((*PLAIN, "caption_tokens"), **options)["index"][0].tolist()
    assert 17 not in index and index.count((17 + STRIDE) % 100) == 2


def test_emoji_have_second_captions():
    drawings = emoji.load(EmojiOptions(train_limit=50)).train
    for index in range(50):
        name = drawings.captions(index)[0]
        second = drawings.second_captions(index)
        assert second == drawings[index].second_captions
        assert all(caption.startswith(f"a drawing of {name}") for caption in second)
        assert len(set(second)) == len(second) >= 1
        assert not set(second) & set(drawings.captions(index))
