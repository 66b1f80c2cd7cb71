"""Checkpoints: saved atomically in the background, verified bit by bit when read.

A thin layer over Orbax's `CheckpointManager`, which restores a flipped byte silently, casts to a requested dtype, and
stops at a damaged step. Here every array has a digest, nothing is cast, and a damaged step is replaced by the step
before it. Layout: ``FOLDER/STEP/state`` (arrays) and ``FOLDER/STEP/meta`` (JSON: path, shape, dtype and digest of every
array, metrics, and the caller's meta). A step is written under a temporary name and renamed.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp

from rankclip_jax.checkpoints import files
from rankclip_jax.checkpoints.digests import altered, manifest, mismatches
from rankclip_jax.checkpoints.files import Damaged
from rankclip_jax.checkpoints.weights import Weights
from rankclip_jax.errors import UserError, first_few
from rankclip_jax.parallel import processes
from rankclip_jax.run_folder import is_step
from rankclip_jax.terminal.show import warn

PyTree = Any


class Restored(NamedTuple):
    """A restored checkpoint."""

    step: int
    state: PyTree  # tree, shapes, dtypes and shardings of the abstract state
    meta: dict[str, Any]  # as passed to `save`, but converted by JSON


class _NewestAndBest:
    """Preservation policy: keep the newest `keep` steps, and the step with the highest score.

    Orbax has such policies, but after a restart it no longer knows the metrics of earlier steps.
    """

    def __init__(self, keep: int, scores: Mapping[int, float]):
        self._keep, self._scores = keep, scores

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        del context
        steps = [checkpoint.step for checkpoint in checkpoints]
        scored = [step for step in steps if self._scores.get(step, -math.inf) > -math.inf]
        stay = set(sorted(steps)[-self._keep :])
        stay |= {max(scored, key=lambda step: (self._scores[step], step))} if scored else set()
        return [step in stay for step in steps]


class Checkpoints:
    """The checkpoints of one run. Every process must call every method, in the same order.

    Saving runs in the background; an error in it is raised by the next call of any method.
    """

    def __init__(self, folder: str, *, keep: int = 3, best_metric: str | None = None, best_mode: str = "max"):
        """Open `folder`, made if missing, and remove unfinished steps of killed processes.

        Args:
          folder: a path that all processes share.
          keep: number of newest steps to keep.
          best_metric: the step with the best value of this metric is kept too.
          best_mode: whether the best value is the "max" or the "min".

        Raises:
          UserError: `best_mode` is invalid, or `folder` is a file.
        """
        if best_mode not in ("max", "min"):
            raise UserError(f"best_mode={best_mode!r} must be 'max' or 'min'")
        self._folder = files.absolute(folder)
        self._set_files_aside()
        self._best = {"metric": best_metric, "mode": best_mode}
        self._scores = files.scores(self._folder, self._best)
        options = ocp.CheckpointManagerOptions(
            preservation_policy=_NewestAndBest(max(1, keep), self._scores), cleanup_tmp_directories=True
        )
        with self._errors():
            self._manager = self._open(options)

    @property
    def latest_step(self) -> int | None:
        """The newest step, even if it is damaged or still being saved; None without steps."""
        return self._manager.latest_step()

    def save(
        self,
        step: int,
        state: PyTree,
        meta: Mapping[str, Any] | None = None,
        metrics: Mapping[str, float] | None = None,
    ) -> bool:
        """Save in the background; `state` may be donated to the next step as soon as this returns.

        It waits for an earlier save, and until `state` is computed and copied to the host.

        Args:
          step: number of steps done.
          state: dicts, tuples and namedtuples of jax arrays.
          meta: anything that JSON can represent; `restore` returns it.
          metrics: numbers, including the one that determines the best step.

        Returns:
          Whether the step is saved: False if it is not newer than the newest step.

        Raises:
          UserError: no disk space is left for this save or the previous one.
        """
        if self.latest_step is not None and step <= self.latest_step:
            return False
        metrics = {name: float(value) for name, value in (metrics or {}).items()}
        record = {"format": 2, "step": step, "meta": dict(meta or {}), "metrics": metrics, "best": self._best}
        record["arrays"] = manifest(state)
        sealed = ocp.args.JsonSave(files.seal(record))
        items = ocp.args.Composite(state=ocp.args.PyTreeSave(state), meta=sealed)
        with self._errors():
            self._manager.check_for_errors()
            self._scores[step] = files.score(metrics, self._best)
            return self._manager.save(step, args=items)

    def wait(self) -> None:
        """Wait until everything is on disk; raise errors of saves in the background."""
        with self._errors():
            self._manager.wait_until_finished()
            self._manager.check_for_errors()

    def close(self) -> None:
        """`wait`, then stop the background threads."""
        self.wait()
        self._manager.close()

    def restore(self, abstract_state: PyTree) -> Restored | None:
        """Restore the newest intact step; return None if there are no steps.

        Newer damaged steps are renamed to ``STEP.damaged``, with one line each on stderr. `abstract_state` is a pytree
        of `jax.ShapeDtypeStruct` with shardings of any mesh; the first local device holds leaves without sharding.

        Raises:
          UserError: paths, shapes or dtypes differ from the checkpoint; or all steps are damaged (then nothing is
            renamed).
        """
        self.wait()
        return self._first_intact(files.steps(self._folder), abstract_state)

    def restore_best(self, abstract_state: PyTree) -> Restored | None:
        """Restore the best intact step by `best_metric`; return None if no step has that metric."""
        self.wait()
        return self._first_intact(files.best_first(self._folder, self._best), abstract_state)

    def _first_intact(self, steps: Sequence[int], abstract_state: PyTree) -> Restored | None:
        damaged: dict[int, str] = {}
        for step in steps:
            try:
                restored = self._read(step, abstract_state)
            except Damaged as error:
                damaged[step] = str(error)
                continue
            for bad, problem in damaged.items():
                self._set_aside(bad, problem)
            return restored
        if damaged:
            found = "; ".join(f"{step}: {problem}" for step, problem in damaged.items())
            raise UserError(f"no intact checkpoint in {self._folder} ({found}); move the folder away to start over")
        return None

    def _read(self, step: int, abstract_state: PyTree) -> Restored:
        """Read and verify one step. Either all processes raise `Damaged` or none does."""
        problem, record, state = "", {}, None
        try:
            record = files.read_record(self._folder, step)
            self._check_fits(step, mismatches(record["arrays"], abstract_state))
            state = files.read_arrays(self._folder, step, abstract_state)
        except Damaged as error:
            problem = str(error)
        if not processes.all_agree(not problem):
            raise Damaged(problem or "another process cannot read it")
        _check_digests(record["arrays"], state)
        return Restored(step, state, record["meta"])

    def _check_fits(self, step: int, differing: Sequence[str]) -> None:
        """Reject a checkpoint of another model or optimizer; Orbax would cast arrays or drop them."""
        if differing:
            raise UserError(
                f"checkpoint {step} in {self._folder} is of another model or optimizer (saved -> wanted): "
                f"{first_few(differing)}. Use the config it was saved with, or another --workdir"
            )

    def _set_aside(self, step: int, problem: str) -> None:
        """Rename a damaged step: it is kept but no longer the newest."""
        if processes.is_main():
            found = f"checkpoint {step} is damaged ({problem}), and an earlier one is used"
            files.set_aside(self._folder / str(step), found)
        processes.barrier(f"set checkpoint {step} aside")
        self._manager.reload()

    def _open(self, options: ocp.CheckpointManagerOptions) -> ocp.CheckpointManager:
        """Open Orbax's manager; if it cannot read its own notes on a step, which nothing here needs, without them."""
        try:
            return ocp.CheckpointManager(self._folder, options=options)
        except Exception as error:
            notes = files.notes(self._folder)
            if files.no_room(error) or not notes:
                raise
        if processes.is_main():
            for path in notes:
                files.set_aside(path, f"{path} may be damaged")
        processes.barrier("set notes aside")
        return ocp.CheckpointManager(self._folder, options=options)

    def _set_files_aside(self) -> None:
        """Rename what is named like a step and is none: Orbax would take it for one, and could not save that step."""
        if self._folder.exists() and not self._folder.is_dir():
            raise UserError(f"{self._folder} is a file, and the folder of checkpoints must be there: move it away")
        if processes.is_main() and self._folder.exists():
            for path in self._folder.iterdir():
                if path.name.isdigit() and not (is_step(path.name) and path.is_dir()):
                    files.set_aside(path, f"{path} is no checkpoint")
        processes.barrier("set files aside")

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Turn the error of a full disk, from any of Orbax's threads, into a `UserError`."""
        try:
            yield
        except Exception as error:
            reason = files.no_room(error)
            if reason is None:
                raise
            raise UserError(
                f"no room to save in {self._folder} ({reason}); earlier checkpoints are intact: free some "
                "disk space and run the same command again"
            ) from error


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
            _check_digests(arrays, state)
        except Damaged as error:
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


def _check_digests(saved: Sequence[Mapping[str, Any]], state: PyTree) -> None:
    are_arrays = all(isinstance(leaf, np.ndarray | np.generic | jax.Array) for leaf in jax.tree.leaves(state))
    if not are_arrays or mismatches(saved, state):  # Orbax leaves placeholders where its notes are damaged
        raise Damaged("its arrays have other names, shapes or dtypes than the saved ones")
    wrong = altered(saved, state)
    if wrong:
        raise Damaged(f"the digest differs from the saved one in {first_few(wrong)}")
