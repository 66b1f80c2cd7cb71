"""RankCLIP's released arithmetic in PyTorch as a reference, written from its formulas.

    pi_i = argsort of row i of Q, descending;  x_ik = P[i, pi_i(k)] - max_j P[i, j]
    ListMLE(P; Q) = mean_i sum_k [log(sum_{l >= k} exp(x_il) + 1e-10) - x_ik]

Like the released code it uses full B x B matrices and autograd. Unlike it, it computes in float32 (the released code
multiplies in fp16 on GPUs), without the random permutation and the padding. Needs the extra `torch`.
"""

from collections.abc import Callable

import numpy as np

from rankclip_jax.errors import UserError, install_hint

EPS = 1e-10


def runner(image_BD: np.ndarray, text_BD: np.ndarray, logit_scale: float, objective: str) -> Callable[[], float]:
    """Return a function that computes loss and gradients of "clip" or "rankclip" once and returns the loss."""
    torch = import_torch()
    image, text = (torch.tensor(x, requires_grad=True) for x in (image_BD, text_BD))
    scale = torch.tensor(logit_scale, dtype=torch.float32, requires_grad=True)

    def run() -> float:
        logits = scale.exp() * image @ text.T
        loss = _clip(torch, logits)
        if objective == "rankclip":
            images, texts = scale.exp() * image @ image.T, scale.exp() * text @ text.T
            pairs = ((logits, logits.T), (logits.T, logits), (images, texts), (texts, images))
            loss = loss + sum(_listmle(torch, p, q) for p, q in pairs) / (32 * len(image))
        torch.autograd.grad(loss, (image, text, scale))
        return loss.item()

    return run


def _clip(torch, logits):
    labels = torch.arange(len(logits))
    cross_entropy = torch.nn.functional.cross_entropy
    return (cross_entropy(logits, labels) + cross_entropy(logits.T, labels)) / 2


def _listmle(torch, prediction, reference):
    order = reference.sort(dim=1, descending=True).indices
    x = (prediction - prediction.max(dim=1, keepdim=True).values).gather(1, order)
    sums = x.exp().flip(1).cumsum(1).flip(1)
    return ((sums + EPS).log() - x).sum(1).mean()


def import_torch():
    """Return the module torch; a UserError says how to install it."""
    try:
        import torch
    except ImportError:
        hint = f"{install_hint('torch')}, or use --frameworks=jax"
        raise UserError(f"the PyTorch reference needs torch: {hint}.") from None
    return torch
