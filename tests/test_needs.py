"""What objectives need: made when needed and not otherwise, refused at the start when nothing gives it."""

import functools
import json

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

import rankclip_jax
from configs import emoji
from rankclip_jax import setup
from rankclip_jax.data.loader import STRIDE, Loader
from rankclip_jax.data.records import Record
from rankclip_jax.data.sources import SOURCES
from rankclip_jax.data.tokenizer import train_tokenizer
from rankclip_jax.data.transforms import make_augment
from rankclip_jax.digests import tree_digests
from rankclip_jax.errors import UserError
from rankclip_jax.models.heads import DistributionHead
from rankclip_jax.models.presets import PRESETS, get_preset
from rankclip_jax.models.two_towers import OUTPUTS, TwoTowers, build_towers, distribution_embeds
from rankclip_jax.needs import batch_inputs, captions_for_vocabulary, check_needs, embeds_of
from rankclip_jax.objectives import OBJECTIVES, Objective
from rankclip_jax.objectives.objective import Term
from rankclip_jax.sharding import make_mesh
from rankclip_jax.step import make_gradients, make_init
from rankclip_jax.train import train
from tests.objective_checks import build

# One worker for all: the tests share compiled functions.
pytestmark = pytest.mark.xdist_group("needs")

AUGMENT = "shift|color_jitter"
PLAIN = ("images", "tokens")
EVERYTHING = (*PLAIN, "caption_tokens", "augmented_images")


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
    defaults = {"batch_size": 24, "seed": 3, "image_size": 12, "augment": AUGMENT, "num_threads": 0}
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
        config = ConfigDict({"data": {"name": "x", "augment": AUGMENT}, "model": get_preset("mu")})
        check_needs(build(name), Source(), config)


# The loader.


def test_what_is_not_needed_is_not_loaded_and_what_is_changes_nothing_else():
    plain, everything = take(PLAIN), take(EVERYTHING)
    assert set(plain) == {*PLAIN, "index"}
    assert_same(plain, {key: everything[key] for key in plain})
    for extra in ("caption_tokens", "augmented_images"):
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


# The towers.


class Flat(nn.Module):
    """A tower that compiles at once: a matrix times its input, and another times that."""

    image_size: int = 8
    context_length: int = 6

    @nn.compact
    def __call__(self, x, with_trunk=False, train=False):
        trunk = nn.Dense(12, name="trunk")(x.reshape(x.shape[0], -1).astype(jnp.float32))
        features = nn.Dense(4, name="proj")(trunk)
        return (features, trunk) if with_trunk else features


def flat_towers(embeds="projection"):
    image_head, text_head = (DistributionHead(prototypes=5, hidden_width=7, hidden_layers=2) for _ in range(2))
    return TwoTowers(Flat(), Flat(), image_head, text_head, embeds)


def flat_batch(rows=6):
    rng = np.random.default_rng(0)
    images = {name: rng.integers(0, 256, (rows, 8, 8, 3)).astype(np.uint8) for name in ("images", "augmented_images")}
    return images | {name: rng.integers(0, 9, (rows, 6)).astype(np.int32) for name in ("tokens", "caption_tokens")}


@functools.cache
def flat_params(needs=tuple(OUTPUTS)):
    return flat_towers().init(jax.random.key(0), needs, flat_batch(), method="compute")["params"]


def test_each_array_is_what_its_tower_makes_of_its_input():
    towers, batch, given = flat_towers(), flat_batch(), {"params": flat_params()}
    found = towers.apply(given, tuple(OUTPUTS), batch, method="compute")
    assert tuple(sorted(found)) == tuple(sorted(OUTPUTS))
    for name, (tower, key, kind) in OUTPUTS.items():
        if kind == "embeds":
            expected = towers.apply(given, batch[key], method=f"encode_{tower}")
            np.testing.assert_array_equal(found[name], expected, err_msg=name)
        else:
            assert found[name].shape == (6, 5) and found[name].dtype == jnp.float32
    pair = towers.apply(given, batch["images"], batch["tokens"])
    assert set(pair) == {"image_embeds", "text_embeds"}
    np.testing.assert_array_equal(pair["text_embeds"], found["text_embeds"])
    assert not np.array_equal(found["image_logits"], found["text_logits"])


def test_heads_exist_where_they_are_needed_and_change_no_tower():
    def made(name):
        objective = build(name)
        init = make_init(flat_towers(), objective, setup.make_optimizer(OPTIMIZER, lambda step: 0.1))
        return init(jax.random.key(0))["params"]["towers"]

    clip = made("clip")
    assert set(clip) == {"image", "text"}
    for name in ("alip", "nclip", "xclip"):
        towers = made(name)
        heads = {"image_head", "text_head"} if name != "alip" else set()
        assert set(towers) == {"image", "text"} | heads
        assert tree_digests({side: towers[side] for side in clip}) == tree_digests(clip)
    assert tree_digests(towers["image_head"]) != tree_digests(towers["text_head"])
    assert set(towers["image_head"]) == {"hidden0", "norm0", "hidden1", "norm1", "prototypes"}


OPTIMIZER = ConfigDict({"b1": 0.9, "b2": 0.98, "eps": 1e-6, "weight_decay": 0.1, "clip_norm": 0.0})


def test_both_towers_exist_for_an_objective_that_reads_one():
    term = Term(needs=("image_logits",), rows=lambda view: jnp.sum(view.rows["image_logits"]))
    objective = Objective("one", "", {"one": term}, lambda step: {"one": 1.0})
    init = make_init(flat_towers(), objective, setup.make_optimizer(OPTIMIZER, lambda step: 0.1))
    assert set(jax.eval_shape(init, jax.random.key(0))["params"]["towers"]) == {"image", "text", "image_head"}


@pytest.mark.parametrize(("name", "moves"), [("nclip", False), ("xclip", True)])
def test_gradients_reach_trunk_and_heads_and_the_projection_only_with_clip(name, moves):
    objective, towers = build(name), flat_towers()
    params = {"towers": flat_params(), "scalars": {key: jnp.float32(2.6) for key in objective.scalars}}
    gradients = make_gradients(towers, objective, make_mesh(jax.devices()[:1]))
    weights = objective.weights(jnp.int32(0))
    found = jax.jit(gradients)(params, flat_batch(), weights).params["towers"]
    for side in ("image", "text"):
        assert np.any(found[side]["trunk"]["kernel"]) and np.any(found[f"{side}_head"]["hidden0"]["kernel"])
        assert np.any(found[side]["proj"]["kernel"]) == moves


@pytest.mark.parametrize("preset", PRESETS)
def test_every_tower_has_a_trunk_for_its_head(preset):
    towers = build_towers(get_preset(preset), vocab_size=64, eot_id=63)
    side, length = towers.image.image_size, towers.text.context_length
    images, tokens = jnp.zeros((2, side, side, 3), jnp.uint8), jnp.zeros((2, length), jnp.int32)
    init = functools.partial(towers.init, needs=("image_logits", "text_logits"), method="compute")
    shapes = jax.eval_shape(lambda key: init(key, batch={"images": images, "tokens": tokens}), jax.random.key(0))
    heads = get_preset(preset).heads
    for side in ("image_head", "text_head"):
        found = shapes["params"][side]
        assert found["prototypes"]["kernel"].shape == (heads.hidden_width, heads.prototypes)
        assert len(found) == 2 * heads.hidden_layers + 1


def test_distributions_as_embeddings():
    logits = jnp.float32([[1, 2, 3], [200, -200, 0], [1, 2, 3], [-200, 200, 0]])
    found = np.asarray(distribution_embeds(logits), np.float64)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, rtol=1e-6)
    np.testing.assert_allclose(found[0] ** 2, np.exp([1, 2, 3]) / np.exp([1, 2, 3]).sum(), rtol=1e-5)
    cosines = found @ found.T
    assert cosines[0, 2] == pytest.approx(1) and cosines[1, 3] == pytest.approx(0, abs=1e-6)


# What cannot be given.


def test_what_nothing_gives_is_named():
    with pytest.raises(UserError, match=r"'cyclip' needs 'text_embeds_augmented', which nothing gives; there are cap"):
        setup.build(mu("cyclip", augmented=True))


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
    config = ConfigDict({"data": {"name": "x", "augment": "none"}, "model": {"heads": {}}})
    with pytest.raises(UserError, match=r"needs a second view .* config\.data\.augment='none' it is the first again"):
        check_needs(objective, Source(), config)
    config.data.augment = AUGMENT
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


@pytest.mark.parametrize(
    ("heads", "message"),
    [
        ({"prototypes": 0, "hidden_width": 8, "hidden_layers": 1}, "model.heads.prototypes=0 must be at least 1"),
        ({"prototypes": 8, "hidden_width": 8}, "model.heads needs hidden_layers: add it"),
        ({"prototype": 8}, r"unknown key of model.heads: 'prototype'. Did you mean 'prototypes'\?"),
    ],
)
def test_heads_that_make_no_sense(heads, message):
    config = get_preset("mu")
    config.heads = ConfigDict(heads)
    with pytest.raises(UserError, match=message):
        build_towers(config, 64, 63)


def test_a_model_described_before_there_were_heads():
    config = get_preset("mu")
    del config.heads, config.embeds
    assert build_towers(config, 64, 63).embeds == "projection"


def test_terms_added_to_another_objective_bring_their_heads():
    parts = setup.build(mu("clip", extra="0.1 nclip_cross_entropy + 0.1 nclip_smoothness"))
    assert parts.config.model.embeds == "projection"
    init = make_init(parts.towers, parts.objective, parts.optimizer)
    assert "image_head" in jax.eval_shape(init, jax.random.key(0))["params"]["towers"]


def test_nclip_is_trained_evaluated_reported_and_loaded(tmp_path):
    config = mu("nclip")
    config.model.image = {"tower": "convnet", "image_size": 32, "patch_size": 4, "widths": (8,), "depths": (0,)}
    config.model.text.layers, config.eval.names, config.eval.shown = 1, ("retrieval",), "val"
    config.eval.during, config.checkpoint.best_metric, config.checkpoint.every = (), "", "2 steps"
    config.log.diagnostics = config.log.tensorboard = False
    train(config, str(tmp_path))
    record = json.loads((tmp_path / "config.json").read_text())
    assert record["config"]["model"]["embeds"] == "distribution"
    metrics = json.loads((tmp_path / "eval.json").read_text())["metrics"]
    assert 0 <= metrics["test_style/image_to_text_R@1"] <= 1
    assert (tmp_path / "report.html").stat().st_size > 10_000
    encoder = rankclip_jax.load(tmp_path)
    images = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3)).astype(np.uint8)
    for embeds in (encoder.encode_image(images), encoder.encode_text(["fox", "the moon", "a boat"])):
        assert embeds.shape == (3, 32)  # as many as there are prototypes
        np.testing.assert_allclose(np.linalg.norm(embeds, axis=1), 1, rtol=1e-5)
        assert np.all(embeds >= 0)
