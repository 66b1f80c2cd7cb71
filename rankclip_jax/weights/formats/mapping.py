"""Convert tensors between this package and another library by an explicit table, in both directions.

A table is a sequence of `Rule`. The name of our array is its path in ``{"towers", "scalars", "batch_stats"}``, such as
"towers/image/proj"; the name of their tensor is its key in a state dict. If a key contains ``{i}``, our array is
stacked over layers. Every tensor must be used: an unused tensor, a missing one or a wrong shape is an error.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from rankclip_jax.errors import UserError

Arrays = Sequence[np.ndarray]
LAYER = "{i}"


class Form(NamedTuple):
    """Conversion of one tensor, or of several together. The two functions are inverses of each other."""

    to_ours: Callable[[Arrays], Arrays]
    to_theirs: Callable[[Arrays], Arrays]


def _each(to_ours: Callable[[np.ndarray], np.ndarray], to_theirs: Callable[[np.ndarray], np.ndarray]) -> Form:
    return Form(lambda arrays: [to_ours(x) for x in arrays], lambda arrays: [to_theirs(x) for x in arrays])


def _stacked_rows(arrays: Arrays) -> Arrays:
    return [np.concatenate(arrays, axis=0)]


FORMS: dict[str, Form] = {
    "same": _each(lambda x: x, lambda x: x),
    # torch.nn.Linear's weight [out, in] is the transpose of a Dense kernel.
    "linear": _each(lambda x: _rank(x, 2).T, lambda x: x.T),
    # torch.nn.Conv2d's weight [out, in, h, w] is a Conv kernel [h, w, in, out].
    "conv": _each(lambda x: _rank(x, 4).transpose(2, 3, 1, 0), lambda x: x.transpose(3, 2, 0, 1)),
    # Queries, keys and values: three Linear layers in theirs, one Dense layer in ours.
    "fused_linear": Form(
        lambda three: [np.concatenate([_rank(x, 2).T for x in three], axis=1)],
        lambda one: [x.T for x in np.split(one[0], 3, axis=1)],
    ),
    "fused_bias": Form(_stacked_rows, lambda one: np.split(one[0], 3)),
    # torch.nn.MultiheadAttention's in_proj: one tensor in theirs; queries apart from keys and values in ours.
    "query_apart": Form(
        lambda one: [np.split(_rank(one[0], 2), 3)[0].T, np.concatenate(np.split(one[0], 3)[1:]).T],
        lambda two: [np.concatenate([x.T for x in two])],
    ),
    "query_bias_apart": Form(
        lambda one: [np.split(one[0], 3)[0], np.concatenate(np.split(one[0], 3)[1:])], _stacked_rows
    ),
    # [D] in ours, [1, 1, D] in theirs.
    "probe": _each(lambda x: x.reshape(-1), lambda x: x.reshape(1, 1, -1)),
    # [T, D] in ours, [1, T, D] in theirs.
    "one_first": _each(lambda x: _rank(x, 3).reshape(x.shape[1:]), lambda x: x[None]),
    # A scalar in ours; in theirs a scalar, or an array of one element.
    "scalar": _each(lambda x: x.reshape(()), lambda x: x),
    "array_of_one": _each(lambda x: x.reshape(()), lambda x: x.reshape(1)),
}


def _rank(x: np.ndarray, rank: int) -> np.ndarray:
    if x.ndim != rank:
        raise ValueError(f"an array of {x.ndim} dimensions instead of {rank}")
    return x


class Rule(NamedTuple):
    """Our arrays `ours` are their tensors `theirs`, converted by `form`, a key of `FORMS`."""

    ours: tuple[str, ...]
    theirs: tuple[str, ...]
    form: str = "same"

    @property
    def is_layered(self) -> bool:
        return LAYER in self.theirs[0]


def rule(ours: str | Sequence[str], theirs: str | Sequence[str], form: str = "same") -> Rule:
    """A `Rule` with one name or several on each side."""
    return Rule(*((names,) if isinstance(names, str) else tuple(names) for names in (ours, theirs)), form)


def norm_rules(ours: str, theirs: str) -> list[Rule]:
    """Rules for the scale and bias of a norm."""
    return [rule(f"{ours}/scale", f"{theirs}.weight"), rule(f"{ours}/bias", f"{theirs}.bias")]


def dense_rules(ours: str, theirs: str) -> list[Rule]:
    """Rules for the kernel and bias of a linear layer."""
    return [rule(f"{ours}/kernel", f"{theirs}.weight", "linear"), rule(f"{ours}/bias", f"{theirs}.bias")]


def to_ours(
    rules: Iterable[Rule],
    tensors: Mapping[str, np.ndarray],
    shapes: Mapping[str, tuple[int, ...]],
    where: str,
    ignored: Callable[[str], bool] = lambda name: False,
) -> dict[str, np.ndarray]:
    """Convert a state dict to float32 arrays by path.

    Args:
      shapes: shape of every array of the model, by path.
      where: the file or folder, for messages.
      ignored: (name) -> whether a tensor is not a weight.

    Raises:
      UserError: a tensor is missing, unused, not a finite floating-point array, or has another shape.
    """
    rules = tuple(rules)
    layers = max((shapes[one.ours[0]][0] for one in rules if one.is_layered), default=0)
    if layers > len(tensors):
        raise UserError(f"{where} has fewer tensors than the {layers:,} layers of this architecture.")
    names = {one: _their_names(one, shapes) for one in rules}
    wanted = [name for layers in names.values() for group in layers for name in group]
    _check_names(wanted, [name for name in tensors if not ignored(name)], where)
    ours: dict[str, np.ndarray] = {}
    for one, layers in names.items():
        converted = [_convert(one, [_as_float(tensors, name, where) for name in group], shapes) for group in layers]
        if any(arrays is None for arrays in converted):
            raise UserError(_shape_problem(one, layers, tensors, shapes, where))
        for path, *parts in zip(one.ours, *converted, strict=True):
            ours[path] = np.stack(parts) if one.is_layered else np.array(parts[0], order="C")
    unset = sorted(set(shapes) - set(ours))
    if unset:
        raise UserError(f"{where} has no tensor for {unset[0]}{_more(unset)}: it is another architecture.")
    return ours


def to_theirs(rules: Iterable[Rule], ours: Mapping[str, np.ndarray], what: str) -> dict[str, np.ndarray]:
    """Convert arrays by path to a float32 state dict.

    Raises:
      UserError: the format, named by `what`, has no tensor for an array.
    """
    rules = tuple(rules)
    unused = sorted(set(ours) - {path for one in rules for path in one.ours})
    if unused:
        raise UserError(f"{what} cannot hold {unused[0]}{_more(unused)} of this model.")
    theirs: dict[str, np.ndarray] = {}
    for one in rules:
        arrays = [np.asarray(ours[path], np.float32) for path in one.ours]
        layers = zip(*arrays, strict=True) if one.is_layered else [arrays]
        for i, parts in enumerate(layers):
            for name, x in zip(one.theirs, FORMS[one.form].to_theirs(parts), strict=True):
                theirs[name.replace(LAYER, str(i))] = np.ascontiguousarray(x).reshape(x.shape)
    return theirs


def _their_names(one: Rule, shapes: Mapping[str, tuple[int, ...]]) -> list[list[str]]:
    """Keys of their state dict: one list for each layer."""
    if not one.is_layered:
        return [list(one.theirs)]
    return [[name.replace(LAYER, str(i)) for name in one.theirs] for i in range(shapes[one.ours[0]][0])]


def _layer_shape(one: Rule, shape: tuple[int, ...]) -> tuple[int, ...]:
    return shape[1:] if one.is_layered else shape


def _check_names(wanted: Sequence[str], found: Sequence[str], where: str) -> None:
    missing, unused = sorted(set(wanted) - set(found)), sorted(set(found) - set(wanted))
    if missing:
        also = f", and holds {unused[0]}{_more(unused)}, which the architecture does not have" if unused else ""
        raise UserError(f"{where} lacks {missing[0]}{_more(missing)} of this architecture{also}.")
    if unused:
        raise UserError(f"{where} holds {unused[0]}{_more(unused)}, which this architecture does not have.")


def _more(names: Sequence[str]) -> str:
    return f" and {len(names) - 1} more" if len(names) > 1 else ""


def _as_float(tensors: Mapping[str, np.ndarray], name: str, where: str) -> np.ndarray:
    x = tensors[name]
    if x.dtype.name not in ("float16", "bfloat16", "float32", "float64"):
        raise UserError(f"{name} in {where} has dtype {x.dtype}: weights must be floating-point numbers.")
    x = x.astype(np.float32)
    if not np.isfinite(x).all():
        raise UserError(f"{name} in {where} holds NaN or infinity: use other weights.")
    return x


def _convert(one: Rule, arrays: Arrays, shapes: Mapping[str, tuple[int, ...]]) -> Arrays | None:
    """Our arrays of one layer; None if their shapes are not those of the model."""
    try:
        ours = FORMS[one.form].to_ours(arrays)
    except ValueError:
        return None
    fits = all(x.shape == _layer_shape(one, shapes[path]) for path, x in zip(one.ours, ours, strict=True))
    return ours if fits else None


def _shape_problem(one: Rule, layers, tensors: Mapping, shapes: Mapping, where: str) -> str:
    """A message that names the first tensor of a wrong shape."""
    needed = FORMS[one.form].to_theirs([np.zeros(_layer_shape(one, shapes[path])) for path in one.ours])
    for group in layers:
        for name, x in zip(group, needed, strict=True):
            if tensors[name].shape != x.shape:
                return (
                    f"{name} in {where} has shape {list(tensors[name].shape)} and this model needs {list(x.shape)}: "
                    "the weights and the config describe different architectures."
                )
    return f"{one.theirs[0]} in {where} does not have the shape that this model needs."
