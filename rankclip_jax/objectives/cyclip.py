"""CyCLIP: CLIP plus geometric consistency (Goel et al. 2022, arXiv 2205.14459).

In-modal consistency: the cosine of two images equals the cosine of their texts. Cross-modal consistency: the cosine of
image j and text k equals the cosine of image k and text j. Evidence: released code.

Both terms are quadratic in cosines. For D < B, three D x D matrices therefore give the sums over all B^2 pairs. With
V, T the embeddings [B, D], a = V + T and b = V - T:

    V V' - T T' = (a b' + b a') / 2            V T' - T V' = (b a' - a b') / 2

The squared norm of a b' +- b a' is |a b'|^2 + |b a'|^2 +- 2 <a b', b a'>, and

    |a b'|^2 = |b a'|^2 = tr(a b' b a') = <a'a, b'b> = alpha
    <a b', b a'>        = tr(b a' b a') = tr((a'b)^2) = beta

Therefore in-modal = (alpha + beta) / 2B and cross-modal = (alpha - beta) / 2B. The usual expansion
|V'V|^2 + |T'T|^2 - 2 |V'T|^2 is a small difference of large values if pairs match: in float32, for pairs at a distance
of 0.001, its third digit is wrong. The form above is small if b is small, and keeps seven digits.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax

from rankclip_jax.errors import UserError
from rankclip_jax.objectives.clip import CLIP, INPUTS, LOGIT_SCALE, contrastive_rows
from rankclip_jax.objectives.objective import Objective, RowBlock, RunInfo, Term, without_options
from rankclip_jax.objectives.weighting import fixed, read_weights, weighted_sum

DEFAULTS = {
    "in_modal_weight": 0.25,  # weight of the in-modal term; 0 drops it (C-CyCLIP)
    "cross_weight": 0.25,  # weight of the cross-modal term; 0 drops it (I-CyCLIP)
    "augmented": False,  # also contrast each image and each text with an augmented view of itself
}
WEIGHT_OPTIONS = {"cyclip_in_modal": "in_modal_weight", "cyclip_cross": "cross_weight"}


def build(config, run: RunInfo) -> Objective:
    """L = CLIP + in_modal_weight * cyclip_in_modal + cross_weight * cyclip_cross.

        cyclip_in_modal = 1/B sum_jk (v_j.v_k - t_j.t_k)^2
        cyclip_cross    = 1/B sum_jk (v_j.t_k - v_k.t_j)^2

    on cosines, over the global batch. Gradient flows into both sides of each difference; nothing is detached. Pairs
    j = k contribute 0. The weights are those of the released command line, 0.25 each. The paper's ablations are
    I-CyCLIP (`cross_weight=0`) and C-CyCLIP (`in_modal_weight=0`); the other weight is then 0.5 (our reading).

    Difference from the released code: it multiplies by the scale before the square and divides after it. The scale
    cancels and has no gradient; it is omitted here.

    ``augmented`` is the released code's option `inmodal`, also off by default. The contrastive part is then

        0.5 CLIP + 0.5 augmented,   augmented = 1/2 [CE(s V V~') + CE(s T T~')]

    with V~, T~ [B, D] of augmented images and texts, read as `image_embeds_augmented` and `text_embeds_augmented`. It
    has only the direction from the plain to the augmented view. The cyclic terms use the plain views. For the released
    augmentations set config.data.view_augment="autoaugment" and view_text_augment="eda", and no other augmentation.

    `config` has the options of `DEFAULTS`; `run` is unused.

    Raises:
      UserError: a negative weight, or no term left except CLIP.
    """
    del run
    cyclic = read_weights(config, WEIGHT_OPTIONS)
    if not cyclic and not config.augmented:
        raise UserError(
            "objective 'cyclip' has in_modal_weight=0 and cross_weight=0: raise one of them, or use the objective clip."
        )
    contrast = {"clip": 0.5, "augmented": 0.5} if config.augmented else {"clip": 1.0}
    weights, terms = contrast | cyclic, {"clip": CLIP} | _TERMS
    return Objective("cyclip", weighted_sum(weights), {name: terms[name] for name in weights}, fixed(weights))


def uses_grams(dim: int, batch: int) -> bool:
    """Whether D x D sums are smaller than the B x B products that they replace."""
    return dim < batch


def cyclic_term(sign: int) -> Term:
    """|a b' + sign b a'|^2 / 4B: in-modal for sign 1, cross-modal for sign -1."""
    return Term(
        inputs=INPUTS,
        sums=_grams,
        from_sums=functools.partial(_from_grams, sign),
        row_loss=functools.partial(_row_loss, sign),
    )


def _grams(rows_KD, scalars, batch):
    """a'a, b'b and a'b [D, D]; {} if the B x B products are smaller."""
    del scalars
    if not uses_grams(rows_KD["image_embeds"].shape[1], batch):
        return {}
    a_KD, b_KD = _sum_and_difference(rows_KD)
    product = functools.partial(jnp.einsum, "KD,KE->DE", precision=lax.Precision.HIGHEST)
    return {"aa": product(a_KD, a_KD), "bb": product(b_KD, b_KD), "ab": product(a_KD, b_KD)}


def _from_grams(sign, grams, scalars, batch):
    del scalars
    if not grams:
        return jnp.zeros((), jnp.float32)
    alpha = jnp.sum(grams["aa"] * grams["bb"])
    beta = jnp.sum(grams["ab"] * grams["ab"].T)
    return (alpha + sign * beta) / (2 * batch)


def _row_loss(sign, block: RowBlock) -> jax.Array:
    """Sum of |a b' + sign b a'|^2 / 4 over the rows of the block, from products [C, B]; 0 if `_grams` computes it."""
    a_CD, b_CD = _sum_and_difference(block.rows)
    if uses_grams(a_CD.shape[1], block.batch):
        return jnp.zeros((), a_CD.dtype)
    a_BD, b_BD = _sum_and_difference(block.gathered)
    product = functools.partial(jnp.einsum, "CD,BD->CB", precision=lax.Precision.HIGHEST)
    return jnp.sum(jnp.square(product(a_CD, b_BD) + sign * product(b_CD, a_BD))) / 4


def _sum_and_difference(embeds):
    image, text = (embeds[name] for name in INPUTS)
    return image + text, image - text


def _augmented_row_loss(block: RowBlock) -> jax.Array:
    """Sum of 1/2 [CE(v -> v~) + CE(t -> t~)] over the rows of the block."""
    total = 0.0
    for name in INPUTS:
        other = f"{name}_augmented"
        rows_C = contrastive_rows(block.scale * block.cosine(name, other), block.scale * block.matching(name, other))
        total += 0.5 * jnp.sum(rows_C)
    return total


_TERMS = {
    "augmented": Term(
        inputs=(*INPUTS, *(f"{name}_augmented" for name in INPUTS)),
        local=INPUTS,
        scalars={"logit_scale": LOGIT_SCALE},
        row_loss=_augmented_row_loss,
    ),
    "cyclip_in_modal": cyclic_term(1),
    "cyclip_cross": cyclic_term(-1),
}
TERMS = {name: without_options(term) for name, term in _TERMS.items()}
