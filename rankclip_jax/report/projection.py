"""Embeddings in two dimensions, in plain numpy: exact t-SNE for small sets, PCA for larger ones.

scikit-learn is no requirement, and its t-SNE is not faster at this size. PCA alone hides the clusters.

Letters: N points, D embedding.
"""

import numpy as np

MAX_TSNE = 1600  # exact t-SNE is quadratic in N: about 7 s on one core at this size
PERPLEXITY, STEPS = 25.0, 300


def project(points: np.ndarray) -> tuple[str, np.ndarray]:
    """Return the name of the method and float64 [N, 2] for points float [N, D]; no randomness."""
    if len(points) <= MAX_TSNE:
        return "t-SNE", tsne(points).astype(np.float64)
    return "PCA", pca(points)


def pca(points: np.ndarray) -> np.ndarray:
    """Return float64 [N, 2]: coordinates along the two directions of largest variance (0 beyond the rank)."""
    centred = points.astype(np.float64) - points.mean(axis=0, dtype=np.float64)
    left, values, _ = np.linalg.svd(centred, full_matrices=False)
    found = left[:, :2] * values[:2]
    return np.pad(found, ((0, 0), (0, 2 - found.shape[1])))


def tsne(points: np.ndarray) -> np.ndarray:
    """Return float32 [N, 2]: exact t-SNE (van der Maaten & Hinton 2008), started from PCA; no randomness.

    The gradient is 4 sum_j (p_ij - q_ij) (y_i - y_j) / (1 + |y_i - y_j|^2), with gains per coordinate. The first
    quarter of the steps uses 4 p (early exaggeration) and momentum 0.5, the rest p and momentum 0.8. The step size
    is N / 48, at least 50 (Belkina et al. 2019).
    """
    n = len(points)
    start = pca(points).astype(np.float32)
    if n < 8 or not start.any():
        return start
    p = _joint_probabilities(points, min(PERPLEXITY, (n - 1) / 3))
    y = start / start[:, 0].std() * 1e-2
    velocity, gains, rate = np.zeros_like(y), np.ones_like(y), max(50.0, n / 48)
    for step in range(STEPS):
        early = step < STEPS // 4
        gradient = _gradient(4 * p if early else p, y)
        gains = np.maximum(np.where(np.sign(gradient) == np.sign(velocity), gains * 0.8, gains + 0.2), 0.01)
        velocity = (0.5 if early else 0.8) * velocity - rate * gains * gradient
        y = y + velocity
        y -= y.mean(axis=0)
    return y


def _gradient(p: np.ndarray, y: np.ndarray) -> np.ndarray:
    kernel = 1 / (1 + _squared_distances(y))
    np.fill_diagonal(kernel, 0)
    force = (p - kernel / kernel.sum()) * kernel
    return 4 * (force.sum(axis=1, keepdims=True) * y - force @ y)


def _joint_probabilities(points: np.ndarray, perplexity: float) -> np.ndarray:
    """Return float32 [N, N]: symmetric affinities; bisection finds each row's width for the perplexity."""
    distances = _squared_distances(points.astype(np.float64))
    n, target = len(points), np.log(perplexity)
    off_diagonal = ~np.eye(n, dtype=bool)
    distances -= np.where(off_diagonal, distances, np.inf).min(axis=1, keepdims=True)
    low, high, beta = np.zeros((n, 1)), np.full((n, 1), np.inf), np.full((n, 1), 10.0)
    for _ in range(40):
        p = np.exp(-distances * beta) * off_diagonal
        total = p.sum(axis=1, keepdims=True)
        entropy = np.log(total) + beta * (distances * p).sum(axis=1, keepdims=True) / total
        low, high = np.where(entropy > target, beta, low), np.where(entropy > target, high, beta)
        beta = np.where(np.isinf(high), beta * 2, (low + high) / 2)
    p /= total
    return ((p + p.T) / (2 * n)).astype(np.float32)


def _squared_distances(x: np.ndarray) -> np.ndarray:
    norms = (x**2).sum(axis=1)
    return np.maximum(norms[:, None] + norms[None, :] - 2 * x @ x.T, 0)
