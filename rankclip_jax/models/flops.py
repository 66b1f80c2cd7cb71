"""Floating-point operations of the towers, counted in the traced program: right for every tower and every option.

Only matrix products and convolutions count, with two operations per multiply-add. Nothing is compiled or computed, and
no device is needed.
"""

import math
from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn
from ml_collections import ConfigDict

from rankclip_jax.image_size import height_width_of
from rankclip_jax.models.two_towers import OUTPUTS, TwoTowers, build_towers

PAIR = ("image_embeds", "text_embeds")
VOCABULARY = 49_408  # look-ups of tokens are no matrix products: any number will do


def train_flops(model: ConfigDict, inputs: Sequence[str] = PAIR, locked: Sequence[str] = ()) -> float:
    """Return the operations of one pair in a training step, as they count for the model FLOPs utilisation (MFU).

    The backward pass counts as two forward passes. What rematerialisation and GradCache compute again is excluded, and
    so is the objective: with D = 512, CLIP's similarities add 3 kFLOP per pair for each pair of the batch.

    Args:
      model: `config.model`.
      inputs: the arrays that the objective reads, keys of `two_towers.OUTPUTS`.
      locked: "image" and "text" if the whole tower is frozen. A locked tower, and its head, have only a forward pass.
    """
    towers = build_towers(model, VOCABULARY, VOCABULARY - 1)
    total = 0.0
    for side in ("image", "text"):
        own = tuple(name for name in inputs if OUTPUTS[name].tower == side)
        passes = 1 if side in locked else 3
        total += passes * (_forward_flops(towers, own) if own else 0.0)
    return total


def _forward_flops(towers: TwoTowers, inputs: Sequence[str]) -> float:
    """Operations of the outputs `inputs` for one pair, in training mode."""
    batch = {
        "image": jax.ShapeDtypeStruct((1, *height_width_of(towers.image.image_size), 3), jnp.uint8),
        "text": jax.ShapeDtypeStruct((1, towers.text.context_length), jnp.int32),
    }
    batch = {OUTPUTS[name].input: batch[OUTPUTS[name].tower] for name in inputs}
    key = jax.eval_shape(lambda: jax.random.key(0))
    variables = jax.eval_shape(lambda key, batch: towers.init(key, inputs, batch, method="compute"), key, batch)

    def forward(variables, batch, key):
        mutable = [name for name in variables if name != "params"]
        rngs = {"patch_dropout": key}
        return towers.apply(variables, inputs, batch, train=True, method="compute", mutable=mutable, rngs=rngs)

    return _count(jax.make_jaxpr(forward)(variables, batch, key).jaxpr)


def _count(jaxpr: Jaxpr) -> float:
    return sum(_of_equation(equation) for equation in jaxpr.eqns)


def _of_equation(equation: JaxprEqn) -> float:
    name = equation.primitive.name
    if name == "dot_general":
        return _of_product(equation)
    if name == "conv_general_dilated":
        return _of_convolution(equation)
    repeats = equation.params["length"] if name == "scan" else 1
    inner = [_count(jaxpr) for jaxpr in _inner(equation)]
    return repeats * (max(inner, default=0.0) if name == "cond" else sum(inner))


def _of_product(equation: JaxprEqn) -> float:
    (contracted, _), _ = equation.params["dimension_numbers"]
    left, out = equation.invars[0].aval.shape, equation.outvars[0].aval.shape
    return 2.0 * math.prod(out) * math.prod(left[axis] for axis in contracted)


def _of_convolution(equation: JaxprEqn) -> float:
    kernel, out = equation.invars[1].aval.shape, equation.outvars[0].aval.shape
    features = kernel[equation.params["dimension_numbers"].rhs_spec[0]]
    return 2.0 * math.prod(out) * math.prod(kernel) / features


def _inner(equation: JaxprEqn) -> Iterator[Jaxpr]:
    """The programs that an equation calls, such as the body of a scan. A custom derivative is not called."""
    for value in equation.params.values():
        for part in value if isinstance(value, tuple | list) else (value,):
            if isinstance(part, ClosedJaxpr):
                yield part.jaxpr
            elif isinstance(part, Jaxpr):
                yield part
