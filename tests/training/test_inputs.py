"""Inputs of objectives: batch keys and embeds that follow from them, and inputs that nothing provides."""

import pytest
from ml_collections import ConfigDict

from configs import emoji
from rankclip_jax.data.sources import SOURCES
from rankclip_jax.errors import UserError
from rankclip_jax.models.presets import get_preset
from rankclip_jax.objectives import OBJECTIVES
from rankclip_jax.training import setup
from rankclip_jax.training.inputs import batch_keys, captions_for_vocabulary, check_inputs, embeds_of
from tests.support.objective_checks import build
from tests.support.two_captions import AUGMENT, PLAIN, TEXT, OneKind, Source

# One worker for all: the tests share compiled functions.
pytestmark = pytest.mark.xdist_group("inputs")


# From inputs to batch keys.


def test_batch_keys_follow_from_inputs():
    expected = {"alip": (*PLAIN, "caption_tokens")}
    for name in OBJECTIVES:
        assert batch_keys(build(name).inputs) == expected.get(name, PLAIN), name
    assert batch_keys(["image_embeds_augmented"]) == (*PLAIN, "augmented_images")


def test_every_objective_gets_its_inputs():
    for name in OBJECTIVES:
        config = ConfigDict(
            {"data": {"name": "x", "augment": AUGMENT, "text_augment": TEXT}, "model": get_preset("mu")}
        )
        check_inputs(build(name), Source(), config)


def test_a_vocabulary_is_trained_on_second_captions_where_they_are_read():
    source = Source()
    assert captions_for_vocabulary(source, 7, build("clip").inputs) == source.captions(7)
    both = (*source.captions(7), *source.second_captions(7))
    assert captions_for_vocabulary(source, 7, build("alip").inputs) == both
    assert captions_for_vocabulary(OneKind(), 7, build("clip").inputs) == source.captions(7)
    assert captions_for_vocabulary(Unreadable(), 7, build("alip").inputs) == ()


class Unreadable(Source):
    def second_captions(self, index):
        raise ValueError("no second caption")


# Inputs that nothing provides.


def test_an_unknown_input_is_named():
    objective = Reading("image_embeds", "depth")
    with pytest.raises(
        UserError, match=r"needs 'depth', which the towers do not compute. Known: caption_embeds, image_emb"
    ):
        check_inputs(objective, Source(), ConfigDict({"data": {"name": "x"}, "model": {"heads": {}}}))


def test_cyclip_with_augmented_views_trains_on_them():
    """From the config to a step: rejected without augmentations of both kinds, and each is named."""
    config = mu("cyclip", augmented=True)
    config.data.augment = "none"
    with pytest.raises(UserError, match=r"second view of each image, .*data\.augment='none' .*data\.view_augment"):
        setup.build(config)
    config.data.view_augment = "autoaugment"
    with pytest.raises(
        UserError, match=r"second view of each caption, .* in config\.data\.view_text_augment, such as 'eda'"
    ):
        setup.build(config)
    config.data.view_text_augment = "eda(synonyms=0)"
    parts = setup.build(config)
    assert set(batch_keys(parts.objective.inputs)) == {"images", "tokens", "augmented_images", "augmented_tokens"}


def test_second_captions_that_the_data_lack(monkeypatch):
    without = lambda config: setup.Dataset("plain", OneKindOfMany(), {}, "", {})  # noqa: E731
    monkeypatch.setitem(SOURCES, "plain", without)
    config = mu("alip")
    config.data.name, config.eval.train_splits, config.eval.report_split = "plain", (), ""
    monkeypatch.setattr(setup, "check_names", lambda config, dataset: None)
    message = "'alip' needs a second caption of each image, and data 'plain' have one kind of caption only: use data"
    with pytest.raises(UserError, match=message):
        setup.build(config)


class OneKindOfMany(OneKind):
    def __len__(self):
        return 100


def test_a_second_view_without_augmentation():
    objective = Reading("image_embeds", "image_embeds_augmented")
    data = {"name": "x", "augment": "none", "view_augment": ""}
    config = ConfigDict({"data": data, "model": {"heads": {}}})
    with pytest.raises(
        UserError, match=r"needs a second view .* config\.data\.augment='none' it equals the first view"
    ):
        check_inputs(objective, Source(), config)
    config.data.augment = AUGMENT
    check_inputs(objective, Source(), config)
    config.data.augment, config.data.view_augment = "none", AUGMENT
    check_inputs(objective, Source(), config)


class Reading:
    """An objective with inputs only."""

    name = "wanting"

    def __init__(self, *inputs):
        self.inputs = inputs


def mu(name, **changes):
    config = emoji.get_config(f"mu,{name}")
    config.data.train_limit, config.batch_size, config.duration = 64, 16, "2 steps"
    config.objective.update(changes)
    return config


# Embeds: what evaluation encodes to.


@pytest.mark.parametrize(
    ("name", "choice", "expected"),
    [
        ("clip", "", "projection"),
        ("nclip", "", "distribution"),
        ("xclip", "", "projection"),
        ("xclip", "distribution", "distribution"),
    ],
)
def test_embeds_are_those_that_are_trained(name, choice, expected):
    assert embeds_of(ConfigDict({"embeds": choice}), build(name)) == expected


@pytest.mark.parametrize(
    ("objective", "choice", "message"),
    [
        (build("nclip"), "projection", "embeds='projection', which objective 'nclip' does not train: use 'dist"),
        (build("clip"), "distribution", "embeds='distribution', which objective 'clip' does not train: use 'proj"),
        (build("clip"), "projektion", r"embeds='projektion'.* use 'projection'"),
        (Reading("caption_embeds"), "", "trains no embedding, neither projection nor distribution"),
    ],
)
def test_embeds_that_are_not_trained(objective, choice, message):
    with pytest.raises(UserError, match=message):
        embeds_of(ConfigDict({"embeds": choice}), objective)
