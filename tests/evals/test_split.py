"""`evaluate_split` on a whole split: random, perfect and collapsed embeddings in every metric; the result files."""

import dataclasses
import io
import json

import numpy as np
import pytest
from PIL import Image

from rankclip_jax.data.records import Classes, EvalSplit
from rankclip_jax.errors import UserError
from rankclip_jax.evals import similarity
from rankclip_jax.evals.embeddings import paired_rows
from rankclip_jax.evals.pixels import pixel_reference
from rankclip_jax.evals.registry import EVALS
from rankclip_jax.evals.results import strings_of, write_embeddings, write_eval
from rankclip_jax.evals.split import chance_levels, embed_split, evaluate_split

ALL = tuple(EVALS)
N_SUBGROUPS, PER_SUBGROUP, N_GROUPS = 12, 12, 6


def make_split(name="test_style", captions=2):
    """144 concepts in 12 subgroups and 6 groups; pixels and words encode the index of the concept."""
    n = N_SUBGROUPS * PER_SUBGROUP
    concept = np.arange(n)
    images = np.zeros((n, 4, 4, 3), np.uint8)
    images[:, 0, 0, 0], images[:, 0, 0, 1] = concept // 256, concept % 256
    texts = tuple(f"{c} caption {i}" for c in concept for i in range(captions))
    of_text = np.repeat(concept, captions)

    def classes(kind, label, n_classes):
        names = tuple(f"{kind} {i}" for i in range(n_classes))
        return Classes(names, label(concept), label(of_text), ("an image of {}", "{}"))

    labellings = {
        "group": classes("group", lambda c: c // PER_SUBGROUP % N_GROUPS, N_GROUPS),
        "subgroup": classes("subgroup", lambda c: c // PER_SUBGROUP, N_SUBGROUPS),
    }
    return EvalSplit(name, images, concept, texts, of_text, labellings)


class PerfectEncoder:
    """Embeddings are nearest for the same concept, then the same subgroup, then the same group."""

    def __init__(self):
        n = N_SUBGROUPS * PER_SUBGROUP
        rng = np.random.default_rng(0)
        subgroup = np.arange(n) // PER_SUBGROUP
        # Group axes first, then subgroup axes; small noise separates concepts.
        self.space = np.zeros((n, 128), np.float32)
        self.space[np.arange(n), subgroup % N_GROUPS] = 1
        self.space[np.arange(n), 8 + subgroup] = 1
        self.space[:, 32:] = 0.02 * rng.normal(size=(n, 96))
        self.space /= np.linalg.norm(self.space, axis=1, keepdims=True)

    def encode_image(self, images):
        return self.space[images[:, 0, 0, 0].astype(int) * 256 + images[:, 0, 0, 1]]

    def encode_text(self, texts):
        return np.stack([self._encode(text) for text in texts])

    def _encode(self, text):
        words = text.split()
        if "caption" in words:
            return self.space[int(words[0])]
        return np.eye(128, dtype=np.float32)[int(words[-1]) + (8 if "subgroup" in words else 0)]


class RandomEncoder:
    def __init__(self, seed=0, fill=None):
        self.rng, self.fill = np.random.default_rng(seed), fill

    def encode_image(self, images):
        return self._draw(len(images))

    def encode_text(self, texts):
        return self._draw(len(texts))

    def _draw(self, n):
        x = self.rng.normal(size=(n, 32)).astype(np.float32)
        x = np.full_like(x, self.fill) if self.fill is not None else x
        return x / np.linalg.norm(x, axis=1, keepdims=True)


def quality(metrics):
    """The metrics whose best value is 1: no counts, ranks or distances."""
    other = ("queries", "median_rank", "alignment", "uniformity", "modality_gap")
    return {key: value for key, value in metrics.items() if not key.endswith(other)}


def test_perfect_embeddings_score_one_in_every_metric():
    found = evaluate_split(PerfectEncoder(), make_split(), ALL)
    assert len(quality(found)) == 6 + 3 + 3 + 4 + 2
    for key, value in quality(found).items():
        assert value == pytest.approx(1, abs=1e-6), key
    assert found["test_style/alignment"] == pytest.approx(0, abs=1e-6)
    assert found["test_style/modality_gap"] == pytest.approx(0, abs=1e-6)


def test_random_embeddings_score_chance_in_every_metric():
    split = make_split()
    chance = chance_levels(split, ALL)
    repeats = [quality(evaluate_split(RandomEncoder(seed), split, ALL)) for seed in range(40)]
    assert set(quality(chance)) == set(repeats[0])
    for key, expected in quality(chance).items():
        values = np.array([found[key] for found in repeats])
        assert abs(values.mean() - expected) < 4 * values.std() / np.sqrt(40) + 1e-3, key


@pytest.mark.parametrize("fill", [1.0, np.nan])
def test_collapsed_and_nan_embeddings_score_no_better_than_zero_and_stay_finite(fill):
    found = evaluate_split(RandomEncoder(fill=fill), make_split(), ALL)
    assert all(isinstance(value, float) and np.isfinite(value) for value in found.values())
    assert all(value == 0 for value in quality(found).values())


def test_all_evaluations_read_the_same_tiles(monkeypatch):
    monkeypatch.setattr(similarity, "BLOCK_ELEMENTS", 2500)
    computed, tile = [], similarity.Scores.tile

    def counted(scores, rows, columns=slice(None)):
        found = tile(scores, rows, columns)
        if isinstance(columns, slice) and scores.shape == (144, 288):
            computed.append(found.size)
        return found

    monkeypatch.setattr(similarity.Scores, "tile", counted)
    small = evaluate_split(RandomEncoder(), make_split(), ALL)
    assert sum(computed) == 144 * 288 and max(computed) <= 2500
    monkeypatch.undo()
    assert small == pytest.approx(evaluate_split(RandomEncoder(), make_split(), ALL), abs=1e-12)


def test_one_row_and_images_without_classes():
    one = EvalSplit("val", np.zeros((1, 4, 4, 3), np.uint8), np.array([3]), ("3 caption",), np.array([3]))
    found = evaluate_split(RandomEncoder(), one, ALL)
    assert found["val/image_to_text_R@1"] == 1
    assert all(np.isfinite(list(found.values())))
    assert not any("zero_shot" in key or "NDCG" in key for key in found)


def test_empty_split_and_unknown_evaluation_are_user_errors():
    split = make_split()
    empty = dataclasses.replace(split, images=split.images[:0], image_ids=split.image_ids[:0])
    with pytest.raises(UserError, match=r"'test_style' has 0 images and 288 texts"):
        evaluate_split(RandomEncoder(), empty, ALL)
    with pytest.raises(UserError, match=r"unknown evaluation 'retreival'. Did you mean 'retrieval'"):
        evaluate_split(RandomEncoder(), split, ("retreival",))
    with pytest.raises(UserError, match="unknown evaluation"):
        chance_levels(split, ("retreival",))


def test_pairs_hold_each_concept_once():
    images, texts = paired_rows(np.array([4, 2, 4, 9, 2]), np.array([2, 4, 2]))
    assert images.tolist() == [1, 0]
    assert texts.tolist() == [0, 1]


def test_class_prompts_are_encoded_only_for_zero_shot():
    asked = []

    class Listening(RandomEncoder):
        def encode_text(self, texts):
            asked.extend(texts)
            return super().encode_text(texts)

    evaluate_split(Listening(), make_split(), ("retrieval",))
    assert len(asked) == 288


def random_images(rng, n, side=8):
    return rng.integers(0, 255, size=(n, side, side, 3), dtype=np.uint8)


def test_pixel_reference_finds_near_copies_and_misses_unseen_concepts():
    rng = np.random.default_rng(0)
    train = random_images(rng, 40)
    near = np.clip(train[::2].astype(int) + rng.integers(-20, 20, train[::2].shape), 0, 255).astype(np.uint8)
    ids = np.repeat(np.arange(20), 2)  # two training images of each of 20 concepts
    texts = tuple(f"name {i}" for i in range(25))  # five names that no training image has
    split = EvalSplit("test", near, np.arange(20), texts, np.arange(25))
    found = pixel_reference(split, train, ids)
    assert found["test/image_to_text_R@1"] == found["test/text_to_image_R@1"] == 1
    unseen = dataclasses.replace(split, image_ids=np.arange(5, 25))
    shifted = pixel_reference(unseen, train, ids)
    assert shifted["test/image_to_text_R@1"] == 0
    assert all(np.isfinite(list(shifted.values())))
    nothing = dataclasses.replace(split, image_ids=np.arange(20) + 100, text_ids=np.arange(25) + 100)
    assert pixel_reference(nothing, train, ids) == {}


def test_pixel_reference_equals_a_brute_force_search():
    rng = np.random.default_rng(1)
    train, ids = random_images(rng, 60), rng.integers(0, 15, 60)
    split = EvalSplit("test", random_images(rng, 30), rng.integers(0, 15, 30), ("x",) * 15, np.arange(15))
    found = pixel_reference(split, train, ids, ks=(3,))

    def vector(image):
        flat = image.astype(np.float64).ravel()
        flat -= flat.mean()
        return flat / np.linalg.norm(flat)

    hits = []
    for image, own in zip(split.images, split.image_ids, strict=True):
        best = {c: -9.0 for c in range(15)}
        for other, concept in zip(train, ids, strict=True):
            best[int(concept)] = max(best[int(concept)], vector(image) @ vector(other))
        order = sorted(best, key=best.get, reverse=True)
        hits.append(own in order[:3] and own in ids)
    assert found["test/image_to_text_R@3"] == pytest.approx(np.mean(hits))


def test_files_of_an_evaluation(tmp_path):
    split = make_split()
    embeds = embed_split(PerfectEncoder(), split, ("retrieval",))
    results = {"step": 7, "metrics": {"val/a": 1.0}, "chance": {"val/a": 0.5}, "pixels": {}}
    assert json.loads(write_eval(tmp_path, results).read_text()) == results
    with np.load(write_embeddings(tmp_path, embeds, split)) as kept:
        assert kept["image_embeds"].dtype == np.float16
        sheet = Image.open(io.BytesIO(kept["sheet"].tobytes()))
        assert kept["columns"] == 12 and kept["cell"].tolist() == [4, 4] and sheet.size == (48, 48)
        strings = strings_of(kept)
        assert strings["texts"] == list(split.texts) and strings["split"] == split.name
        assert strings["classes"] == {name: list(classes.names) for name, classes in split.classes.items()}
        assert kept["subgroup/text_labels"].shape == (288,)
    with np.load(write_embeddings(tmp_path, embeds, split, max_kept=10)) as kept:
        assert len(kept["image_embeds"]) == 10
        assert sorted(set(kept["text_ids"].tolist())) == sorted(kept["image_ids"].tolist())
        assert len(strings_of(kept)["texts"]) == 20
    assert not list(tmp_path.glob("*.partial"))


def test_thumbnails_of_large_images_are_small(tmp_path):
    images = random_images(np.random.default_rng(0), 2, side=200)[:, :, :100]
    split = EvalSplit("val", images, np.arange(2), ("a", "b"), np.arange(2))
    embeds = embed_split(RandomEncoder(), split, ("retrieval",))
    with np.load(write_embeddings(tmp_path, embeds, split)) as kept:
        assert kept["cell"].tolist() == [64, 32]
        assert Image.open(io.BytesIO(kept["sheet"].tobytes())).size == (64, 64)
