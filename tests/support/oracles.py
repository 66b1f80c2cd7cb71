"""Brute-force objectives in float64 and plain numpy: values and gradients, written from the formulas alone."""

import math

import numpy as np


def listmle(utility, reference):
    """Loss [C] and gradient [C, B] of each row, in the set form, without sorting or running sums.

    loss = sum_k [log D_k - u_k], D_k = sum over {l: ref_l <= ref_k} of exp(u_l);
    d loss / d u_j = sum over {k: ref_k >= ref_j} of exp(u_j) / D_k - 1.
    """
    u, ref = np.asarray(utility, np.float64), np.asarray(reference, np.float64)
    in_list = ref[:, None, :] <= ref[:, :, None]  # [row, k, l]
    inside = np.where(in_list, u[:, None, :], -np.inf)
    peak = inside.max(axis=2)
    log_d = peak + np.log(np.exp(inside - peak[:, :, None]).sum(axis=2))
    shares = np.exp(inside - log_d[:, :, None])
    return (log_d - u).sum(axis=1), shares.sum(axis=1) - 1.0


def rankclip_terms(image, text, logit_scale):
    """{term: (loss, d_image, d_text, d_log_scale)} of CLIP, cross and in-modal, each with weight 1."""
    v, t = np.asarray(image, np.float64), np.asarray(text, np.float64)
    s, batch = np.exp(np.float64(logit_scale)), len(v)
    scores = s * v @ t.T
    clip_loss, d_clip = _contrastive(scores)
    back_loss, d_back = _contrastive(scores.T)
    found = {"clip": _through_scores((clip_loss + back_loss) / 2, (d_clip + d_back.T) / 2, v, t, s)}

    share = 1 / (32 * batch**2)
    there, d_there = listmle(scores, _order_only(v @ t.T).T)
    back, d_back = listmle(scores.T, _order_only(v @ t.T))
    found["rank_cross"] = _through_scores(share * (there.sum() + back.sum()), share * (d_there + d_back.T), v, t, s)

    images, d_images = listmle(s * v @ v.T, _order_only(t @ t.T))
    texts, d_texts = listmle(s * t @ t.T, _order_only(v @ v.T))
    found["rank_in_modal"] = (
        share * (images.sum() + texts.sum()),
        share * s * (d_images + d_images.T) @ v,
        share * s * (d_texts + d_texts.T) @ t,
        share * s * ((d_images * (v @ v.T)).sum() + (d_texts * (t @ t.T)).sum()),
    )
    return found


def _order_only(cosines):
    # Duplicates must tie, although their products were summed in different orders.
    return np.round(cosines, 12)


def _contrastive(scores):
    """Mean cross-entropy of the rows against the diagonal, and its gradient."""
    peak = scores.max(axis=1, keepdims=True)
    exps = np.exp(scores - peak)
    total = exps.sum(axis=1, keepdims=True)
    loss = np.mean((peak + np.log(total))[:, 0] - np.diag(scores))
    return loss, (exps / total - np.eye(len(scores))) / len(scores)


def _through_scores(loss, d_scores, v, t, s):
    return loss, s * d_scores @ t, s * d_scores.T @ v, s * (d_scores * (v @ t.T)).sum()


def weighted_listmle(utility, reference, top_k=0, decay="none"):
    """As `listmle`, with a weight for each rank: sum_k w_k [log D_k - u_k]. Sets, one rank at a time."""
    losses, gradients = [], []
    for u, ref in zip(np.float64(utility), np.float64(reference), strict=True):
        w = _item_weights(ref, top_k, decay)
        shares = np.array([np.where(ref <= value, np.exp(u - u.max()), 0) for value in ref])
        log_d = np.log(shares.sum(axis=1)) + u.max()
        losses.append(np.sum(w * (log_d - u)))
        gradients.append(w @ (shares / shares.sum(axis=1, keepdims=True)) - w)
    return np.array(losses), np.array(gradients)


def _item_weights(reference, top_k, decay):
    """Weight of each item of a list: the mean over the ranks of its tie group; a group across rank k counts whole."""
    weights = []
    for value in reference:
        best = 1 + sum(reference > value)
        ranks = range(best, best + sum(reference == value))
        each = [1 / math.log(rank + 1) if decay == "log" else 1.0 for rank in ranks]
        weights.append(sum(each) / len(each) if top_k == 0 or best <= top_k else 0.0)
    return np.array(weights)


def rank_term(image, text, scale, term, *, scope="row", diagonal=True, **rank_weights):
    """(loss, d_image, d_text, d_logit_scale) of one ranking term of RankCLIP, with its options."""
    v, t = np.float64(image), np.float64(text)
    first, second = (v @ t.T, t @ v.T) if term == "rank_cross" else (v @ v.T, t @ t.T)
    batch = len(v)
    keep = np.ones((batch, batch), bool) if diagonal else ~np.eye(batch, dtype=bool)
    shape = (1, -1) if scope == "batch" else (batch, -1)
    total, d = 0.0, []
    for utility, reference in ((first, second), (second, first)):
        # Duplicates must tie, although their products were summed in different orders.
        u, ref = scale * utility[keep].reshape(shape), np.round(reference[keep].reshape(shape), 6)
        loss, gradient = weighted_listmle(u, ref, **rank_weights)
        full = np.zeros((batch, batch))
        full[keep] = gradient.ravel() / (32 * batch**2)
        total += loss.sum() / (32 * batch**2)
        d.append(full)
    if term == "rank_cross":
        d_v, d_t = scale * (d[0] @ t + d[1].T @ t), scale * (d[0].T @ v + d[1] @ v)
    else:
        d_v, d_t = scale * (d[0] + d[0].T) @ v, scale * (d[1] + d[1].T) @ t
    return total, d_v, d_t, scale * ((d[0] * first).sum() + (d[1] * second).sum())
