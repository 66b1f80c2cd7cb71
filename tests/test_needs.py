"""What objectives need: made when needed and not otherwise, refused at the start when nothing gives it."""

import functools

import numpy as np
import pytest
from ml_collections import ConfigDict

from configs import emoji
from rankclip_jax import setup
from rankclip_jax.data.loader import STRIDE, Loader
from rankclip_jax.data.records import Record
from rankclip_jax.data.sources import SOURCES
from rankclip_jax.data.text_augment import make_text_augment
from rankclip_jax.data.tokenizer import train_tokenizer
from rankclip_jax.data.transforms import make_augment
from rankclip_jax.errors import UserError
from rankclip_jax.models.presets import get_preset
from rankclip_jax.needs import batch_inputs, captions_for_vocabulary, check_needs, embeds_of
from rankclip_jax.objectives import OBJECTIVES
from tests.objective_checks import build

# One worker for all: the tests share compiled functions.
pytestmark = pytest.mark.xdist_group("needs")

AUGMENT = "shift|color_jitter"
TEXT = "eda(synonyms=0)"
PLAIN = ("images", "tokens")
EVERYTHING = (*PLAIN, "caption_tokens", "augmented_images", "augmented_tokens")


class Source:
    """Pictures with captions of two kinds; those in `without` lack the second kind."""

    def __init__(self, without=()):
        self.without = frozenset(without)

    def __len__(self):
        return 100

    def __getitem__(self, index):
        image = np.random.default_rng(index).integers(0, 256, (12, 12, 3), np.uint8)
        second = () if index in self.without else self.second_captions(index)
        return Record(self.key(index), image, self.captions(index), second)

    def key(self, index):
        return f"r{index}"

    def captions(self, index):
        return (f"number {index}", f"the picture {index}")

    def second_captions(self, index):
        return (f"a drawing of {index}", f"a sketch of {index}", f"{index} drawn")


class OneKind:
    """A source without second captions."""

    captions = Source.captions


@functools.cache
def tokenizer():
    return train_tokenizer(["number picture the drawing of sketch a drawn"] * 2, 300, 24)


def take(inputs, steps=4, source=None, **options):
    """Batches of some steps, stacked by key."""
    defaults = {
        "batch_size": 24,
        "seed": 3,
        "image_size": 12,
        "augment": AUGMENT,
        "text_augment": TEXT,
        "num_threads": 0,
    }
    with Loader(source or Source(), tokenizer(), inputs=inputs, **(defaults | options)) as loader:
        batches = [next(loader) for _ in range(steps)]
    return {key: np.stack([batch[key] for batch in batches]) for key in batches[0]}


def assert_same(left, right):
    assert set(left) == set(right)
    for key, value in left.items():
        np.testing.assert_array_equal(value, right[key], err_msg=key)


# From names to inputs.


def test_inputs_follow_from_needs():
    expected = {"alip": (*PLAIN, "caption_tokens")}
    for name in OBJECTIVES:
        assert batch_inputs(build(name).needs) == expected.get(name, PLAIN), name
    assert batch_inputs(["image_embeds_augmented"]) == (*PLAIN, "augmented_images")


def test_every_objective_is_given_what_it_needs():
    for name in OBJECTIVES:
        config = ConfigDict(
            {"data": {"name": "x", "augment": AUGMENT, "text_augment": TEXT}, "model": get_preset("mu")}
        )
        check_needs(build(name), Source(), config)


# The loader.


def test_what_is_not_needed_is_not_loaded_and_what_is_changes_nothing_else():
    plain, everything = take(PLAIN), take(EVERYTHING)
    assert set(plain) == {*PLAIN, "index"}
    assert_same(plain, {key: everything[key] for key in plain})
    for extra in ("caption_tokens", "augmented_images", "augmented_tokens"):
        assert_same({extra: take((*PLAIN, extra))[extra]}, {extra: everything[extra]})


def test_second_captions_belong_to_their_pictures_and_vary():
    batch = take(EVERYTHING, steps=8)
    assert batch["caption_tokens"].dtype == np.int32
    found = set()
    for tokens, index in zip(batch["caption_tokens"].reshape(-1, 24), batch["index"].ravel(), strict=True):
        found.add(Source().second_captions(index).index(tokenizer().decode(tokens)))
    assert found == {0, 1, 2}
    # Drawn on its own, as the second part of an example.
    for row, (tokens, index) in enumerate(zip(batch["caption_tokens"][2], batch["index"][2], strict=True)):
        rng = np.random.Generator(np.random.Philox(key=3, counter=[0, row, 2, 1]))
        assert tokenizer().decode(tokens) == Source().second_captions(index)[rng.integers(3)]


def test_the_second_view_is_another_draw_of_the_same_picture():
    batch = take(EVERYTHING)
    first, second = (batch[key].reshape(-1, 12, 12, 3) for key in ("images", "augmented_images"))
    assert second.dtype == np.uint8
    assert all(not np.array_equal(a, b) for a, b in zip(first, second, strict=True))
    still = take(EVERYTHING, augment="none")
    np.testing.assert_array_equal(still["images"], still["augmented_images"])
    # Drawn on its own: step 2, row 5, third part.
    rng = np.random.Generator(np.random.Philox(key=3, counter=[0, 5, 2, 2]))
    picture = Source()[batch["index"][2, 5]].image
    np.testing.assert_array_equal(batch["augmented_images"][2, 5], make_augment(AUGMENT, 12)(picture, rng))


def test_views_may_have_augmentations_of_their_own():
    plain = {"augment": "none", "text_augment": "none"}
    own = plain | {"view_augment": "flip(probability=1)", "view_text_augment": "eda(synonyms=0)"}
    batch = take(EVERYTHING, **own)
    for key in PLAIN:
        assert_same({key: batch[key]}, {key: take(EVERYTHING, **plain)[key]})
    np.testing.assert_array_equal(batch["augmented_images"], batch["images"][:, :, :, ::-1])
    changed = (batch["augmented_tokens"] != batch["tokens"]).any(axis=2)
    assert changed.mean() > 0.3


def test_a_changed_caption_is_that_of_its_row_by_its_own_draw():
    batch = take(EVERYTHING)
    text = make_text_augment("eda(synonyms=0)")
    for key, part in (("tokens", 3), ("augmented_tokens", 4)):
        for row in range(4):
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
    drawings = SOURCES["emoji"](ConfigDict({"train_limit": 50})).train
    for index in range(50):
        name = drawings.captions(index)[0]
        second = drawings.second_captions(index)
        assert second == drawings[index].second_captions
        assert all(caption.startswith(f"a drawing of {name}") for caption in second)
        assert len(set(second)) == len(second) >= 1
        assert not set(second) & set(drawings.captions(index))


def test_the_vocabulary_knows_second_captions_where_they_are_read():
    source = Source()
    assert captions_for_vocabulary(source, 7, build("clip").needs) == source.captions(7)
    both = (*source.captions(7), *source.second_captions(7))
    assert captions_for_vocabulary(source, 7, build("alip").needs) == both
    assert captions_for_vocabulary(OneKind(), 7, build("clip").needs) == source.captions(7)
    assert captions_for_vocabulary(OneKind(), 7, build("alip").needs) == ()  # cannot be read


# The towers.


# What cannot be given.


def test_what_nothing_gives_is_named():
    objective = Needing("image_embeds", "depth")
    with pytest.raises(UserError, match=r"needs 'depth', which nothing gives; there are caption_embeds, image_emb"):
        check_needs(objective, Source(), ConfigDict({"data": {"name": "x"}, "model": {"heads": {}}}))


def test_cyclip_with_augmented_views_trains_on_them():
    """From the config to a step: refused without augmentations of both kinds, and each is named."""
    config = mu("cyclip", augmented=True)
    config.data.augment = "none"
    with pytest.raises(UserError, match=r"second view of each picture, .*data\.augment='none' .*data\.view_augment"):
        setup.build(config)
    config.data.view_augment = "autoaugment"
    with pytest.raises(
        UserError, match=r"second view of each caption, .* in config\.data\.view_text_augment, such as 'eda'"
    ):
        setup.build(config)
    config.data.view_text_augment = "eda(synonyms=0)"
    parts = setup.build(config)
    assert set(batch_inputs(parts.objective.needs)) == {"images", "tokens", "augmented_images", "augmented_tokens"}


def test_second_captions_that_the_data_lack(monkeypatch):
    without = lambda config: setup.Dataset("plain", OneKindOfMany(), {}, "", {})  # noqa: E731
    monkeypatch.setitem(SOURCES, "plain", without)
    config = mu("alip")
    config.data.name, config.eval.during, config.eval.shown = "plain", (), ""
    monkeypatch.setattr(setup, "check_names", lambda config, dataset: None)
    message = "'alip' needs a second caption of each picture, and data 'plain' have one kind of caption only: use data"
    with pytest.raises(UserError, match=message):
        setup.build(config)


class OneKindOfMany(OneKind):
    def __len__(self):
        return 100


def test_a_second_view_without_augmentation():
    objective = Needing("image_embeds", "image_embeds_augmented")
    data = {"name": "x", "augment": "none", "view_augment": ""}
    config = ConfigDict({"data": data, "model": {"heads": {}}})
    with pytest.raises(UserError, match=r"needs a second view .* config\.data\.augment='none' it is the first again"):
        check_needs(objective, Source(), config)
    config.data.augment = AUGMENT
    check_needs(objective, Source(), config)
    config.data.augment, config.data.view_augment = "none", AUGMENT
    check_needs(objective, Source(), config)


def test_heads_that_the_model_lacks():
    config = ConfigDict({"data": {"name": "x", "augment": AUGMENT}, "model": {}})
    check_needs(build("clip"), Source(), config)
    with pytest.raises(UserError, match=r"'nclip' needs distribution heads, and config\.model has no section `heads`"):
        check_needs(build("nclip"), Source(), config)


class Needing:
    """An objective as far as its needs go."""

    name = "wanting"

    def __init__(self, *needs):
        self.needs = needs


def mu(name, **changes):
    config = emoji.get_config(f"mu,{name}")
    config.data.train_limit, config.batch_size, config.duration = 64, 16, "2 steps"
    config.objective.update(changes)
    return config


# What evaluation encodes to.


@pytest.mark.parametrize(
    ("name", "choice", "expected"),
    [
        ("clip", "", "projection"),
        ("nclip", "", "distribution"),
        ("xclip", "", "projection"),
        ("xclip", "distribution", "distribution"),
    ],
)
def test_embeds_are_of_what_is_trained(name, choice, expected):
    assert embeds_of(ConfigDict({"embeds": choice}), build(name)) == expected


@pytest.mark.parametrize(
    ("objective", "choice", "message"),
    [
        (build("nclip"), "projection", "embeds='projection', which objective 'nclip' does not train: use 'dist"),
        (build("clip"), "distribution", "embeds='distribution', which objective 'clip' does not train: use 'proj"),
        (build("clip"), "projektion", r"embeds='projektion'.* use 'projection'"),
        (Needing("caption_embeds"), "", "trains nothing to encode to, neither projection nor distribution"),
    ],
)
def test_embeds_that_are_not_trained(objective, choice, message):
    with pytest.raises(UserError, match=message):
        embeds_of(ConfigDict({"embeds": choice}), objective)
