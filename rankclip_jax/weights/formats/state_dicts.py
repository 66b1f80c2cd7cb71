"""Find the state dict in what a training program saved, and remove the prefixes of its wrappers."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from rankclip_jax.errors import UserError, first_few
from rankclip_jax.terminal.show import warn
from rankclip_jax.weights.formats.inert_pickle import Inert, Tensor, code_message

# Keys under which training programs store the weights in a checkpoint, in order of preference.
NESTED = ("state_dict", "model_state_dict", "model", "module", "network", "net", "weights", "params")
DEEPEST, MOST_MODULES = 50, 100_000  # containers or modules inside each other, and modules in all
# Modules that wrap other modules anywhere in a model: torch.compile, FSDP, activation checkpointing.
WRAPPERS = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module")
# The name of the model's scale, with any prefix. Some attention layers have a scale too, "attn.logit_scale".
SCALE = re.compile(r"(?:.*(?<!attn)\.)?logit_scale")
# First components of names that belong to a model. All tensors of a lone tower have one of them.
ROOTS = ("visual", "text", "transformer", "vision_model", "text_model")


def named_tensors(found: Any, path: Path) -> dict[str, Tensor]:
    """The tensors of a state dict, of a training checkpoint's state dict, or of a whole module, by dotted name.

    Args:
      found: the content of the file.
      path: the file, for messages.

    Raises:
      UserError: there is no state dict, or there are several, or one of its values is an object instead of a tensor.
    """
    state = _state_dict(found, path)
    if isinstance(state, Inert):
        tensors = dict(_module_tensors(state, path))
    else:
        unknown = [value.origin for value in state.values() if isinstance(value, Inert)]
        if unknown:
            raise UserError(code_message(path, unknown[0]))
        tensors = {name: value for name, value in state.items() if isinstance(value, Tensor) and isinstance(name, str)}
    if not tensors:
        raise UserError(f"{path} holds no named tensors: give a file with a model's state dict.")
    return tensors


def _state_dict(found: Any, path: Path) -> Mapping | Inert:
    """The mapping with tensors as values, or the module, in `found`."""
    for _ in range(DEEPEST):
        if not isinstance(found, Mapping) or any(isinstance(value, Tensor) for value in found.values()):
            break
        seen: set[int] = set()
        inner = {key: value for key, value in found.items() if _holds_weights(value, path, seen)}
        named = [key for key in NESTED if key in inner]
        if not inner:
            break
        if not named and len(inner) > 1:
            names = first_few([repr(key) for key in inner], ", ")
            raise UserError(f"{path} holds several state dicts ({names}): save one of them alone.")
        key = named[0] if named else next(iter(inner))
        others = [repr(other) for other, value in inner.items() if other != key and _holds_scale(value, set())]
        if others:
            warn(f"{path} holds several models: the weights under {key!r} are read, not {first_few(others, ', ')}")
        found = inner[key]
    return found if isinstance(found, Mapping | Inert) else {}


def _holds_scale(value: Any, seen: set[int], depth: int = 0) -> bool:
    """Whether a mapping holds a model, unlike an optimizer's moments: ``logit_scale`` with any prefix."""
    if not isinstance(value, Mapping) or id(value) in seen or depth > DEEPEST:
        return False
    seen.add(id(value))
    here = any(isinstance(key, str) and SCALE.fullmatch(key) for key in value)
    return here or any(_holds_scale(one, seen, depth + 1) for one in value.values())


def _holds_weights(value: Any, path: Path, seen: set[int], depth: int = 0) -> bool:
    """Whether a tensor with a name is in `value`. A container that is met again is not searched again."""
    if isinstance(value, Inert):
        return next(_module_tensors(value, path), None) is not None
    if not isinstance(value, Mapping) or id(value) in seen or depth > DEEPEST:
        return False
    seen.add(id(value))
    named = [one for key, one in value.items() if isinstance(key, str)]
    return any(isinstance(one, Tensor) or _holds_weights(one, path, seen, depth + 1) for one in named)


def _module_tensors(module: Inert, path: Path) -> Iterator[tuple[str, Tensor]]:
    """Yield (dotted name, tensor) of a pickled ``torch.nn.Module``, or of a TorchScript module."""
    waiting, visited = [("", module)], 0
    while waiting:
        prefix, one = waiting.pop()
        visited += 1
        if visited > MOST_MODULES or prefix.count(".") > DEEPEST:
            raise UserError(f"{path} holds too many modules inside each other: save the model's state_dict() alone.")
        for name, value in _attributes(one).items():
            if isinstance(value, Tensor):
                yield f"{prefix}{name}", value
            elif isinstance(value, Inert):
                waiting.append((f"{prefix}{name}.", value))


def _attributes(module: Inert) -> dict[str, Any]:
    """Parameters, buffers and modules of a module by name, and its other attributes."""
    found = dict(module.attributes)
    for group in ("_parameters", "_buffers", "_modules"):
        inner = found.pop(group, None)
        found |= inner if isinstance(inner, Mapping) else {}
    return {name: value for name, value in found.items() if isinstance(name, str)}


def without_prefixes(tensors: Mapping[str, np.ndarray], where: Path) -> dict[str, np.ndarray]:
    """The tensors by the names that they have in the model, without the prefixes that wrappers add.

    Removed are `WRAPPERS`, the prefix of ``logit_scale``, and the first component of all names as long as they share
    one that is not in `ROOTS`. Counters and scalars outside the prefix of ``logit_scale`` are left out.

    Raises:
      UserError: the file holds several models, or other weights beside the model.
    """
    odd = next((name for name in tensors if not name.isprintable()), None)
    if odd is not None:
        raise UserError(f"{where} is damaged: it holds a tensor with the name {odd[:100]!r}. Download it again.")
    plain = {name: ".".join(part for part in name.split(".") if part not in WRAPPERS) for name in tensors}
    scales = sorted({name.removesuffix("logit_scale") for name in plain.values() if SCALE.fullmatch(name)})
    if len(scales) > 1:
        shown = first_few([repr(prefix) for prefix in scales], ", ")
        raise UserError(f"{where} holds several models, with the prefixes {shown}: save one of them alone.")
    if scales and scales[0]:
        beside = [name for name, short in plain.items() if not short.startswith(scales[0])]
        weights = [name for name in beside if tensors[name].ndim]
        if weights:
            raise UserError(
                f"{where} holds {weights[0]} beside the model, whose prefix is {scales[0]!r}: save the model alone."
            )
        plain = {name: short[len(scales[0]) :] for name, short in plain.items() if name not in beside}
    while len(firsts := {short.partition(".")[0] for short in plain.values()}) == 1:
        (first,) = firsts
        if first in ROOTS or first in plain.values():
            break
        plain = {name: short[len(first) + 1 :] for name, short in plain.items()}
    if len(set(plain.values())) < len(plain):
        raise UserError(f"{where} holds tensors with the same name under several prefixes: save one model alone.")
    return {short: tensors[name] for name, short in plain.items()}
