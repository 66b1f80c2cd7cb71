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

import orbax.checkpoint as ocp

from rankclip_jax.checkpoints import files
from rankclip_jax.checkpoints.digests import manifest, mismatches
from rankclip_jax.checkpoints.files import Damaged
from rankclip_jax.errors import UserError, first_few
from rankclip_jax.parallel import processes
from rankclip_jax.run_folder import is_step

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

    def restore(self, abstract_state: PyTree, step: int | None = None) -> Restored | None:
        """Restore `step`, or the newest intact step if it is None; return None if there are no steps.

        Newer damaged steps are renamed to ``STEP.damaged``, with one line each on stderr. `abstract_state` is a pytree
        of `jax.ShapeDtypeStruct` with shardings of any mesh; the first local device holds leaves without sharding.

        Raises:
          UserError: paths, shapes or dtypes differ from the checkpoint; `step` is damaged; or all steps are (then
            nothing is renamed).
        """
        self.wait()
        if step is None:
            return self._first_intact(files.steps(self._folder), abstract_state)
        try:
            return self._read(step, abstract_state)
        except Damaged as error:
            raise UserError(f"checkpoint {step} in {self._folder} is damaged ({error}): use another one") from None

    def restore_best(self, abstract_state: PyTree) -> Restored | None:
        """Restore the best intact step by `best_metric`; return None if no step has that metric."""
        self.wait()
        return self._first_intact(files.best_first(self._folder, self._best), abstract_state)

    def reload(self) -> None:
        """Read the steps in the folder again, after steps were moved away."""
        self._manager.reload()
        for step in self._scores.keys() - files.steps(self._folder):
            del self._scores[step]

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
        files.check_digests(record["arrays"], state)
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
        """Turn an error of the file system, from any of Orbax's threads, into a `UserError`."""
        try:
            yield
        except UserError:
            raise
        except Exception as error:
            full, lost = files.no_room(error), files.no_access(error)
            if full:
                raise UserError(
                    f"no room to save in {self._folder} ({full}); earlier checkpoints are intact: free some "
                    "disk space and run the same command again"
                ) from error
            if lost:
                raise UserError(
                    f"cannot save in {self._folder} ({lost}): make it writable again, and run the same command again"
                ) from error
            raise
