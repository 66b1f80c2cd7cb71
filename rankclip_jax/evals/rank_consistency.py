"""How consistently images and texts rank each other, which is what RankCLIP trains.

Letters: N pairs (one image and one text of a concept), A anchors, D embedding.

In-modal: an anchor image's similarities to the other N - 1 images are compared with its text's similarities to the
other N - 1 texts. Cross-modal: the image's similarities to the other texts are compared with its text's similarities
to the other images: a row of the matrix with its column.
"""

import numpy as np

from rankclip_jax.evals.rank_correlation import kendall_tau, spearman
from rankclip_jax.evals.similarity import Scores, finite_rows, row_blocks

MAX_ANCHORS = 256
SEED = 0
CORRELATIONS = ("in_modal_kendall_tau", "in_modal_spearman", "cross_modal_kendall_tau", "cross_modal_spearman")


def rank_consistency(
    image_embeds: np.ndarray, text_embeds: np.ndarray, *, max_anchors: int = MAX_ANCHORS, seed: int = SEED
) -> dict[str, float]:
    """Return the mean Kendall tau-a and Spearman's rho over anchors, in-modal and cross-modal.

    Pass each concept once: a duplicate is a trivially equal item in both lists. With more than ``max_anchors`` pairs,
    a random subset of anchors is used; lists always hold all N - 1 items. Tied items, and pairs with a NaN embedding,
    contribute 0. With fewer than 3 pairs all values are 0.

    Args:
      image_embeds, text_embeds: float [N, D], unit norm; row n of both is pair n.
      max_anchors: largest number of anchors A.
      seed: draws the random subset of anchors.
    """
    n_pairs = len(image_embeds)
    valid = finite_rows(image_embeds, text_embeds)
    drawn = np.random.default_rng(seed).permutation(n_pairs)[:max_anchors]
    # Anchors are indices into the valid rows. Invalid anchors score 0: `share` accounts for them.
    anchors = (np.cumsum(valid) - 1)[np.sort(drawn[valid[drawn]])]
    share = len(anchors) / max(1, len(drawn))
    v, t = (np.asarray(embeds[valid], np.float64) for embeds in (image_embeds, text_embeds))
    in_modal = _agreement(Scores(v[anchors], v), Scores(t[anchors], t), anchors, n_pairs)
    cross_modal = _agreement(Scores(v[anchors], t), Scores(t[anchors], v), anchors, n_pairs)
    return {name: share * value for name, value in zip(CORRELATIONS, in_modal + cross_modal, strict=True)}


def _agreement(scores_a: Scores, scores_b: Scores, anchors: np.ndarray, n_pairs: int) -> tuple[float, float]:
    """Return the mean tau and rho between the rows of both scores; the row of anchor i is compared without item i."""
    n = len(scores_a.candidates)
    if n < 3 or len(anchors) == 0:
        return 0.0, 0.0
    tau = rho = 0.0
    for block in row_blocks(len(anchors), 8 * n):  # ranking keeps about eight arrays of this size
        others = np.arange(n)[None, :] != anchors[block, None]
        list_a, list_b = (scores.tile(block)[others].reshape(-1, n - 1) for scores in (scores_a, scores_b))
        tau += kendall_tau(list_a, list_b).sum()
        rho += spearman(list_a, list_b).sum()
    # Items lost to NaN still count in the denominators: pairs for tau, (n^3 - n) for rho.
    full, kept = n_pairs - 1, n - 1
    tau *= kept * (kept - 1) / (full * (full - 1))
    rho *= (kept**3 - kept) / (full**3 - full)
    return float(tau / len(anchors)), float(rho / len(anchors))
