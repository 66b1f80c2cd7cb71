"""Retrieval and zero-shot: hand cases, brute force, chance, perfect embeddings, and ties and NaN."""

import numpy as np
import pytest

from rankclip_jax.errors import UserError
from rankclip_jax.evals import similarity
from rankclip_jax.evals.retrieval import retrieval, retrieval_chance
from rankclip_jax.evals.similarity import Scores
from rankclip_jax.evals.zeroshot import class_embeddings, zero_shot, zero_shot_chance


def unit(rng, *shape):
    x = rng.normal(size=shape).astype(np.float32)
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def brute_force_rank(scores, match):
    """Rank of the best match of one query by a loop over the candidates; ties count against it."""
    best = max(s for s, m in zip(scores, match, strict=True) if m)
    return 1 + sum(1 for s, m in zip(scores, match, strict=True) if not m and s >= best)


def test_three_images_with_several_captions():
    # Two captions for image 0, two for image 1, one for image 2; similarities are read off the axes.
    image_embeds = np.eye(3, dtype=np.float32)
    texts = np.array([[0.9, 0.1, 0], [0.0, 0.8, 0.1], [0, 0.5, 0.6], [0.2, 0.3, 0], [0.1, 0.2, 0.7]], np.float32)
    found = retrieval(Scores(image_embeds, texts), np.arange(3), np.array([0, 0, 1, 1, 2]), ks=(1, 2))
    # Image-to-text: image 0 ranks its caption 0 first; image 1 ranks 0.8 (not its caption) before 0.5;
    # image 2 ranks 0.7, its caption, before 0.6.
    assert found["image_to_text_R@1"] == pytest.approx(2 / 3)
    assert found["image_to_text_R@2"] == 1
    # Text-to-image: texts 0, 3 and 4 rank their image first; text 1 ranks it last, after image 1; text 2 ranks it
    # second, after image 2.
    assert found["text_to_image_R@1"] == pytest.approx(3 / 5)
    assert found["text_to_image_R@2"] == pytest.approx(4 / 5)
    assert (found["image_to_text_queries"], found["text_to_image_queries"]) == (3, 5)
    assert found["text_to_image_median_rank"] == 1


def test_equals_brute_force_and_does_not_depend_on_blocks(monkeypatch):
    rng = np.random.default_rng(0)
    image_embeds, text_embeds = unit(rng, 37, 6), unit(rng, 53, 6)
    image_ids, text_ids = rng.integers(0, 20, 37), rng.integers(0, 20, 53)
    scores = np.round(image_embeds.astype(np.float64) @ text_embeds.T.astype(np.float64) * similarity.STEPS)
    match = image_ids[:, None] == text_ids[None, :]
    ranks = np.array([brute_force_rank(s, m) for s, m in zip(scores, match, strict=True) if m.any()])
    back = np.array([brute_force_rank(s, m) for s, m in zip(scores.T, match.T, strict=True) if m.any()])
    found = retrieval(Scores(image_embeds, text_embeds), image_ids, text_ids)
    for k in (1, 5, 10):
        assert found[f"image_to_text_R@{k}"] == np.mean(ranks <= k)
        assert found[f"text_to_image_R@{k}"] == np.mean(back <= k)
    assert found["image_to_text_median_rank"] == np.median(ranks)
    assert found["image_to_text_queries"] == len(ranks)
    assert found["text_to_image_median_rank"] == np.median(back)
    monkeypatch.setattr(similarity, "BLOCK_ELEMENTS", 100)  # tiles of 10 x 10, and smaller ones at the ends
    assert retrieval(Scores(image_embeds, text_embeds), image_ids, text_ids) == found


def test_random_embeddings_score_chance():
    rng = np.random.default_rng(1)
    image_ids, text_ids = np.repeat(np.arange(100), 2), np.repeat(np.arange(100), 5)
    chance = retrieval_chance(image_ids, text_ids)
    repeats = [retrieval(Scores(unit(rng, 200, 32), unit(rng, 500, 32)), image_ids, text_ids) for _ in range(40)]
    for k in (1, 5, 10):
        for way, queries in (("image_to_text", 200), ("text_to_image", 500)):
            key = f"{way}_R@{k}"
            mean = np.mean([found[key] for found in repeats])
            # Queries of one concept are correlated, so allow for 4 standard errors of 100 independent concepts.
            error = 4 * np.sqrt(chance[key] * (1 - chance[key]) / (40 * min(queries, 100)))
            assert abs(mean - chance[key]) < error, key
    medians = np.mean([found["image_to_text_median_rank"] for found in repeats])
    assert medians == pytest.approx(chance["image_to_text_median_rank"], rel=0.1)


def test_chance_is_exact_for_one_match_and_by_enumeration():
    ids = np.arange(50)
    chance = retrieval_chance(ids, ids)
    assert chance["image_to_text_R@1"] == pytest.approx(1 / 50)
    assert chance["text_to_image_R@10"] == pytest.approx(10 / 50)
    assert chance["image_to_text_median_rank"] == 25
    # Two of four candidates match: a random pair misses both with probability 1/6, a single draw with 1/2.
    chance = retrieval_chance(np.array([0]), np.array([0, 0, 1, 1]), ks=(1, 2, 3, 10))
    assert [chance[f"image_to_text_R@{k}"] for k in (1, 2, 3, 10)] == pytest.approx([1 / 2, 5 / 6, 1, 1])


def test_perfect_embeddings_score_one():
    embeds = unit(np.random.default_rng(2), 400, 16)
    found = retrieval(Scores(embeds, np.repeat(embeds, 3, axis=0)), np.arange(400), np.repeat(np.arange(400), 3))
    assert all(value == 1 for key, value in found.items() if "R@" in key or "median" in key)


@pytest.mark.parametrize("size", [7, 64, 501])  # odd sizes reach the tail kernels of the matrix product
def test_collapsed_embeddings_score_zero(size):
    embeds = np.repeat(unit(np.random.default_rng(3), 1, 300), size, axis=0)
    found = retrieval(Scores(embeds, embeds), np.arange(size), np.arange(size), ks=(1, 5))
    assert all(value == 0 for key, value in found.items() if "R@" in key)
    assert found["image_to_text_median_rank"] == size


def test_nan_is_a_miss_and_never_leaks():
    embeds = unit(np.random.default_rng(4), 30, 8)
    broken = embeds.copy()
    broken[:3] = np.nan
    found = retrieval(Scores(broken, embeds), np.arange(30), np.arange(30))
    assert found["image_to_text_R@1"] == found["image_to_text_R@10"] == 27 / 30
    assert found["text_to_image_R@1"] == 0  # three images have NaN scores for every text, and rank first
    assert found["text_to_image_R@5"] == 27 / 30
    everything = retrieval(Scores(np.full_like(embeds, np.nan), embeds), np.arange(30), np.arange(30))
    assert all(np.isfinite(list(everything.values())))
    assert everything["image_to_text_R@10"] == everything["text_to_image_R@10"] == 0
    assert everything["image_to_text_median_rank"] == 30


def test_each_direction_with_repeated_ids_nan_and_ties_equals_brute_force(monkeypatch):
    monkeypatch.setattr(similarity, "BLOCK_ELEMENTS", 64)
    rng = np.random.default_rng(6)
    image_ids, text_ids = rng.integers(0, 4, 21), rng.integers(0, 5, 30)
    image_embeds, text_embeds = unit(rng, 21, 4)[rng.integers(0, 9, 21)], unit(rng, 30, 4)[rng.integers(0, 12, 30)]
    image_embeds[[3, 8]] = text_embeds[[0, 4]] = np.nan
    scores = np.round(image_embeds.astype(np.float64) @ text_embeds.T.astype(np.float64) * similarity.STEPS)
    finite = np.isfinite(scores)
    match = image_ids[:, None] == text_ids[None, :]
    best_first = np.where(finite, scores, np.where(match, -np.inf, np.inf))
    ranks = np.array([brute_force_rank(s, m) for s, m in zip(best_first, match, strict=True) if m.any()])
    back = np.array([brute_force_rank(s, m) for s, m in zip(best_first.T, match.T, strict=True) if m.any()])
    found = retrieval(Scores(image_embeds, text_embeds), image_ids, text_ids, ks=(1, 2, 5, 10))
    for k in (1, 2, 5, 10):
        assert found[f"image_to_text_R@{k}"] == np.mean(ranks <= k)
        assert found[f"text_to_image_R@{k}"] == np.mean(back <= k)


def test_queries_without_a_match_are_excluded_and_counted():
    embeds = np.eye(4, dtype=np.float32)
    found = retrieval(Scores(embeds, embeds[:2]), np.arange(4), np.arange(2))
    assert found["image_to_text_queries"] == 2
    assert found["image_to_text_R@1"] == 1


def test_no_match_at_all_and_empty_are_user_errors():
    embeds = np.eye(3, dtype=np.float32)
    with pytest.raises(UserError, match="images and texts share no id"):
        retrieval(Scores(embeds, embeds), np.arange(3), np.arange(3) + 10)
    with pytest.raises(UserError, match="0 queries"):
        retrieval(Scores(embeds[:0], embeds), np.arange(0), np.arange(3))
    with pytest.raises(UserError, match="0 candidates"):
        retrieval(Scores(embeds, embeds[:0]), np.arange(3), np.arange(0))


def test_one_row():
    found = retrieval(Scores(np.eye(1), np.eye(1)), np.array([7]), np.array([7]))
    assert found["image_to_text_R@1"] == found["text_to_image_R@1"] == 1
    assert retrieval_chance(np.array([7]), np.array([7]))["image_to_text_R@1"] == 1


def test_class_embedding_normalises_before_and_after_the_mean():
    table = {"a cat": [3.0, 0.0], "the cat": [0.0, 1.0], "a dog": [-2.0, 0.0], "the dog": [-1.0, 0.0]}
    embeds = class_embeddings(lambda texts: np.array([table[t] for t in texts]), ["cat", "dog"], ["a {}", "the {}"])
    np.testing.assert_allclose(embeds, [[np.sqrt(0.5), np.sqrt(0.5)], [-1, 0]], atol=1e-12)


def test_zero_shot_perfect_chance_ties_and_nan():
    rng = np.random.default_rng(5)
    classes, labels = unit(rng, 20, 16), rng.integers(0, 20, 3000)
    assert zero_shot(Scores(classes[labels], classes), labels) == {"top1": 1, "top3": 1, "top5": 1}
    chance = zero_shot_chance(20)
    assert chance == {"top1": 1 / 20, "top3": 3 / 20, "top5": 5 / 20}
    found = zero_shot(Scores(unit(rng, 3000, 16), classes), labels)
    for key, expected in chance.items():
        assert abs(found[key] - expected) < 4 * np.sqrt(expected * (1 - expected) / 3000)
    assert zero_shot(Scores(classes[labels], np.repeat(classes[:1], 20, axis=0)), labels)["top5"] == 0
    broken = classes[labels]
    broken[:300] = np.nan
    assert zero_shot(Scores(broken, classes), labels)["top5"] == 0.9


def test_zero_shot_leaves_out_cut_offs_that_are_always_reached():
    assert set(zero_shot(Scores(np.eye(3), np.eye(3)), np.arange(3))) == {"top1"}
    assert set(zero_shot_chance(3)) == {"top1"}
    assert zero_shot(Scores(np.eye(1), np.eye(1)), np.zeros(1, int)) == zero_shot_chance(1) == {}
