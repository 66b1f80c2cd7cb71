"""The geometry of the joint embedding space: alignment, uniformity and modality gap.

Letters: N pairs, D embedding; v images, t texts, unit norm.
"""

import numpy as np

from rankclip_jax.evals.similarity import finite_rows, row_blocks

FARTHEST_SQUARED = 4.0  # squared distance of opposite unit vectors


def geometry(image_embeds: np.ndarray, text_embeds: np.ndarray) -> dict[str, float]:
    """Return alignment, uniformity and modality gap of N pairs; always finite.

    * ``alignment`` = mean_i |v_i - t_i|^2, lower is better; a pair with NaN counts 4, the largest squared distance.
    * ``uniformity`` = log mean_{i > j} exp(-2 |v_i - t_j|^2), lower is better (Wang & Isola 2020, in the cross-modal
      form that CyCLIP reports); with fewer than two finite pairs it is 0, its largest value.
    * ``modality_gap`` = |mean(v) - mean(t)| (Liang et al. 2022); without a finite pair it is 2, its largest value.

    Args:
      image_embeds, text_embeds: float [N, D].
    """
    valid = finite_rows(image_embeds, text_embeds)
    v, t = np.asarray(image_embeds[valid], np.float64), np.asarray(text_embeds[valid], np.float64)
    distances = np.full(len(valid), FARTHEST_SQUARED)
    distances[valid] = ((v - t) ** 2).sum(axis=1)
    gap = float(np.linalg.norm(v.mean(axis=0) - t.mean(axis=0))) if len(v) else 2.0
    return {"alignment": float(distances.mean()), "uniformity": _uniformity(v, t), "modality_gap": gap}


def _uniformity(v: np.ndarray, t: np.ndarray) -> float:
    n = len(v)
    if n < 2:
        return 0.0
    total = 0.0
    for block in row_blocks(n, n):
        before = t[: block.stop]
        squared = (v[block] ** 2).sum(axis=1)[:, None] + (before**2).sum(axis=1)[None, :] - 2 * v[block] @ before.T
        below_diagonal = np.arange(block.stop)[None, :] < np.arange(n)[block, None]
        total += np.exp(-2 * squared)[below_diagonal].sum()
    return float(np.log(max(total / (n * (n - 1) / 2), np.finfo(np.float64).tiny)))
