"""NDCG against scikit-learn, in both directions; ties, NaN, collapsed and random embeddings."""

import numpy as np
import pytest
from sklearn.metrics import ndcg_score

from rankclip_jax.evals import similarity
from rankclip_jax.evals.graded import NAMES, GradedRanks, Judged, ndcg_chance
from rankclip_jax.evals.similarity import Scores, read_tiles

TO_TEXT, TO_IMAGE = NAMES


def unit(rng, *shape):
    x = rng.normal(size=shape).astype(np.float32)
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def ndcg(image_embeds, text_embeds, images, texts):
    scores, ranks = Scores(image_embeds, text_embeds), GradedRanks(images, texts)
    read_tiles(scores, [ranks.read])
    return ranks.metrics()


def concepts(rng, n_labels, per_label, n_dims=64):
    """Embeddings in which concepts with the same label are near each other and far from all others."""
    labels = np.repeat(np.arange(n_labels), per_label)
    embeds = np.eye(n_labels, n_dims)[labels] + 0.01 * rng.normal(size=(len(labels), n_dims))
    return embeds / np.linalg.norm(embeds, axis=1, keepdims=True), labels


@pytest.mark.parametrize("block_elements", [2**20, 300, 1])
@pytest.mark.parametrize("n_images", [25, 6])  # with 6 images, lists of images are shorter than the cut-off
def test_ndcg_equals_scikit_learn(monkeypatch, n_images, block_elements):
    monkeypatch.setattr(similarity, "BLOCK_ELEMENTS", block_elements)
    rng = np.random.default_rng(4)
    v, t = unit(rng, n_images, 8), unit(rng, 60, 8)
    images = Judged(rng.integers(0, 30, n_images), rng.integers(0, 6, n_images))
    texts = Judged(rng.integers(0, 30, 60), rng.integers(0, 6, 60))
    gains = np.where(images.labels[:, None] == texts.labels[None, :], 1, 0)
    gains = np.where(images.ids[:, None] == texts.ids[None, :], 3, gains)
    scores = v.astype(np.float64) @ t.T.astype(np.float64)
    assert gains.any(axis=1).all()  # scikit-learn would count queries without relevant candidates
    found, answerable = ndcg(v, t, images, texts), gains.any(axis=0)
    assert found[TO_TEXT] == pytest.approx(ndcg_score(gains, scores, k=10), abs=1e-9)
    assert found[TO_IMAGE] == pytest.approx(ndcg_score(gains.T[answerable], scores.T[answerable], k=10), abs=1e-9)


def test_ndcg_of_perfect_collapsed_and_random_embeddings():
    rng = np.random.default_rng(5)
    embeds, labels = concepts(rng, 20, 15)
    judged = Judged(np.arange(300), labels)
    assert ndcg(embeds, embeds, judged, judged) == pytest.approx({TO_TEXT: 1, TO_IMAGE: 1})
    assert ndcg(embeds, np.repeat(embeds[:1], 300, axis=0), judged, judged)[TO_TEXT] == 0
    assert ndcg(embeds, embeds * np.nan, judged, judged) == {TO_TEXT: 0, TO_IMAGE: 0}
    random = [ndcg(unit(rng, 300, 24), unit(rng, 300, 24), judged, judged) for _ in range(20)]
    for name, chance in ndcg_chance(judged, judged).items():
        values = [found[name] for found in random]
        assert abs(np.mean(values) - chance) < 4 * np.std(values) / np.sqrt(20)


def test_ndcg_ranks_ties_and_nan_against_the_model():
    judged = Judged(np.arange(3), np.array([0, 1, 2]))
    scores = np.array([[5.0, 5.0, 1.0], [np.nan, 2.0, 1.0], [1.0, 2.0, np.nan]])
    ranks = GradedRanks(judged, judged)
    ranks.read(slice(0, 3), slice(0, 3), scores)
    second, third = 1 / np.log2(3), 0.0
    # Image 0: its match ties with another candidate and ranks second. Image 1: a NaN ranks first, its match second.
    # Image 2: its match is NaN and earns nothing.
    assert ranks.metrics()[TO_TEXT] == pytest.approx((2 * second + third) / 3)
    # Text 0: a NaN ranks first, its match second. Text 1: its match ties with image 2 and is third. Text 2: none.
    assert ranks.metrics()[TO_IMAGE] == pytest.approx((second + 1 / np.log2(4)) / 3)


def test_ndcg_without_anything_relevant_is_zero():
    ids = np.arange(3)
    images, texts = Judged(ids, ids), Judged(ids + 9, ids + 9)
    assert ndcg(np.eye(3), np.eye(3), images, texts) == {TO_TEXT: 0, TO_IMAGE: 0}
    assert ndcg_chance(images, texts) == {TO_TEXT: 0, TO_IMAGE: 0}
