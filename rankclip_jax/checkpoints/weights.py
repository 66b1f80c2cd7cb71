"""The weights of a two-tower model as one value, shared by checkpoints and encoders, and read from a checkpoint."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from rankclip_jax.checkpoints import files
from rankclip_jax.errors import UserError
from rankclip_jax.terminal.show import warn


class Weights(NamedTuple):
    """The arrays that a model needs for evaluation.

    Attributes:
      params: {"towers", "scalars"}, nested dicts of arrays.
      model_state: mutable collections of the towers, such as {"batch_stats"}; empty for most models.
    """

    params: Mapping[str, Any]
    model_state: Mapping[str, Any]

    @classmethod
    def of_state(cls, state: Mapping[str, Any]) -> "Weights":
        """The moving averages of a train state if it has them, otherwise its current weights."""
        chosen = state.get("ema") or state
        return cls(chosen["params"], chosen.get("model_state", {}))


def load_model(folder: str, step: int | str | None = None) -> tuple[Weights, dict[str, Any]]:
    """Read the weights for evaluation, on any machine, without a model and without writing to the folder.

    Args:
      folder: as passed to `Checkpoints`. States have "params", perhaps "model_state", and perhaps "ema", a moving
        average of both. The average is read if there is one.
      step: a step number; None for the newest intact step; "best" for the best by the metric of the run.

    Returns (weights as numpy arrays, meta as given to `save` plus its "step").

    Raises:
      UserError: no such checkpoint, or it is damaged.
    """
    path = files.absolute(folder)
    problems = []
    for candidate in _candidates(path, step):
        try:
            record = files.read_record(path, candidate)
            parts = ("ema",) if _of(record["arrays"], "ema") else ("params", "model_state")
            arrays = _of(record["arrays"], *parts)
            state = files.read_numpy(path, candidate, arrays)
            files.check_digests(arrays, state)
        except files.Damaged as error:
            problems.append(f"{candidate}: {error}")
            continue
        for problem in problems:
            warn(f"damaged checkpoint skipped: {problem}")
        return Weights.of_state(state), record["meta"] | {"step": candidate}
    wanted = "checkpoint" if step is None else f"checkpoint {step!r}"
    raise UserError(f"no intact {wanted} in {path}{': ' * bool(problems)}{'; '.join(problems)}")


def _of(arrays: Sequence[Mapping[str, Any]], *parts: str) -> list[Mapping[str, Any]]:
    """Return the entries that belong to the given top-level parts of the state."""
    return [entry for entry in arrays if entry["path"][0] in parts]


def _candidates(folder: Any, step: int | str | None) -> list[int]:
    """Return the steps to try, in order."""
    if step is None:
        return files.steps(folder)
    if step == "best":
        return files.best_first(folder)
    if not str(step).isdigit():
        raise UserError(f"step {step!r} is neither a number nor 'best'")
    return [int(step)]
