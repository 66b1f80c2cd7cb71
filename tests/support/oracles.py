"""Brute-force objectives in float64 and plain numpy: values and gradients, written from the formulas alone."""

import numpy as np


def listmle(utility, reference):
    """Loss [C] and gradient [C, B] of each row, in the set form: no order, no running sum.

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
    # Duplicates must tie, whatever order their products were summed in.
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
