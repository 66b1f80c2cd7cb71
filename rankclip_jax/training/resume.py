"""How a run continues in its folder: as it was, or with changes made on purpose by ``--resume_from``.

A run that goes back to an earlier checkpoint abandons a branch. Its later checkpoints, its lines of metrics and its
results are kept in ``abandoned/N/``, N = 1, 2, ...; nothing is deleted. The change takes effect when ``config.json``
with the new history replaces the old one. A kill before that leaves the old run. A kill after it may leave checkpoints
of the abandoned branch, which the next start recognises by their copy of the history, and moves.
"""

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from rankclip_jax.checkpoints.manager import Checkpoints, Restored
from rankclip_jax.checkpoints.run_copy import copied_record, read_record, record_in
from rankclip_jax.config.changes import check_same_run
from rankclip_jax.config.history import KEY, Change, describe, history_of, is_on_branch, new_change, undone
from rankclip_jax.config.record import as_json, write_record
from rankclip_jax.errors import UserError
from rankclip_jax.evals.results import EMBEDDINGS_FILE, EVAL_FILE, OTHER_FOLDER, PROBE_FILE
from rankclip_jax.files.atomic import replaced_file
from rankclip_jax.parallel import processes
from rankclip_jax.parallel.agreement import check_same
from rankclip_jax.run_folder import ABANDONED, CHECKPOINTS, CONFIG, METRICS, SKIPPED, checkpoint_steps, read_metrics
from rankclip_jax.schedules import Schedule
from rankclip_jax.terminal.show import show
from rankclip_jax.training.optimizer import learning_rate_schedule

LATEST = "latest"
COPIED = (METRICS, CONFIG)  # the run goes on with them
MOVED = (EVAL_FILE, PROBE_FILE, EMBEDDINGS_FILE, OTHER_FOLDER, "report.html", SKIPPED, "wandb_id.txt")


class Plan(NamedTuple):
    """How to continue; made before anything is changed."""

    workdir: str
    record: dict[str, Any]  # {"config", "data", "changes"} of the run from now on, in the types of JSON
    saved: Mapping[str, Any] | None = None  # its record until now; None for a new run
    is_change: bool = False
    step: int | None = None  # of the checkpoint to restore; None for the newest


def plan(workdir: str, config: ConfigDict, data: Mapping[str, Any], resume_from: str | None, resuming: bool) -> Plan:
    """Decide how the run in `workdir` continues, and move checkpoints of an abandoned branch that are still there.

    Args:
      config, data: those of this start, as in `run_record`.
      resume_from: None, "latest" or the number of a step. A command that is repeated after its change took effect
        continues from the newest checkpoint, as any command does.
      resuming: whether the run has progress.

    Raises:
      UserError: the folder holds another run and `resume_from` is None; or the change is not possible.
    """
    record = as_json({"config": config.to_dict(), "data": data, KEY: []})
    check_same("--resume_from", str(resume_from))
    step = _step_of(resume_from)
    if not resuming:
        if step is not None:
            raise UserError(f"--resume_from={step}: {workdir} holds no checkpoint; leave the flag out for a new run")
        return Plan(workdir, record)
    saved = read_record(workdir)
    history = record[KEY] = history_of(saved)
    _move_abandoned(Path(workdir), history)
    if saved is None or resume_from is None:
        check_same_run(workdir, saved, config, data)
        return Plan(workdir, record, saved)
    changed = new_change(0, saved, record)["changed"]
    if not changed and (step is None or (history and history[-1]["step"] == step)):
        return Plan(workdir, record, saved)
    steps = checkpoint_steps(Path(workdir) / CHECKPOINTS)
    if step is not None and step not in steps:
        found = ", ".join(map(str, steps)) or "none"
        raise UserError(f"--resume_from={step}: there is no such checkpoint in {workdir}; there are: {found}")
    return Plan(workdir, record, saved, is_change=True, step=step)


def begin(plan: Plan, checkpoints: Checkpoints, restored: Restored | None, learning_rate: Schedule) -> list[Change]:
    """Check that the restored checkpoint belongs to the run, carry out the planned change, and return the history.

    Raises:
      UserError: the checkpoint is of another run, or is later than the new end of the run.
    """
    where = f"{plan.workdir}/{CHECKPOINTS}"
    if restored:
        copy = copied_record(restored.meta)
        then = plan.saved if plan.is_change else plan.record
        expected = undone(then, len(history_of(copy)))
        check_same_run(f"{where}/{restored.step}", copy, expected["config"], expected["data"])
    if not plan.is_change:
        return plan.record[KEY]
    step, duration = restored.step if restored else 0, plan.record["config"]["duration"]
    if step > duration:
        raise UserError(
            f"config.duration is {duration} steps, and checkpoint {step} is later: use --resume_from=STEP with an "
            "earlier one"
        )
    change = new_change(step, plan.saved, plan.record)
    plan.record[KEY].append(change)
    processes.barrier("change decided")
    if processes.is_main():
        _carry_out(plan, change)
        updates = step - int(restored.state["skips"]["total"]) if restored else 0
        show(_report(plan, change, updates, learning_rate))
    processes.barrier("change done")
    checkpoints.reload()
    return history_of(read_record(plan.workdir))  # of the main process: the time of the change differs


def _step_of(resume_from: str | None) -> int | None:
    if resume_from in (None, LATEST):
        return None
    if not str(resume_from).isdecimal():
        raise UserError(f"--resume_from={resume_from} is neither the number of a step nor {LATEST!r}")
    return int(resume_from)


def _carry_out(plan: Plan, change: Change) -> None:
    """Keep what is later than the change, write ``config.json``, and move the abandoned checkpoints."""
    workdir, step = Path(plan.workdir), change["step"]
    change["kept"] = _keep(workdir) if _has_later(workdir, step) else None
    write_record(workdir, {**plan.saved, **plan.record})
    for later in (s for s in checkpoint_steps(workdir / CHECKPOINTS) if s > step):
        _move(workdir, later, change)


def _has_later(workdir: Path, step: int) -> bool:
    """Return whether the run has anything later than `step`."""
    steps = [*checkpoint_steps(workdir / CHECKPOINTS), *(line["step"] for line in read_metrics(workdir))]
    return max(steps, default=0) > step


def _keep(workdir: Path) -> str:
    """Copy or move the branch's files, but its checkpoints, to a new folder; return its path in the run folder."""
    number = next(n for n in itertools.count(1) if not (workdir / ABANDONED / str(n)).exists())
    branch = workdir / ABANDONED / str(number)
    branch.mkdir(parents=True)
    for name in COPIED:
        if (workdir / name).is_file():
            with replaced_file(branch / name, "wb") as file:
                file.write((workdir / name).read_bytes())
    for name in MOVED:
        if (workdir / name).exists():
            (workdir / name).rename(branch / name)
    return f"{ABANDONED}/{number}"


def _move_abandoned(workdir: Path, history: Sequence[Change]) -> None:
    """Move checkpoints of abandoned branches, which are left after a kill; all processes call this together."""
    if not history:
        return
    if processes.is_main():
        for step in checkpoint_steps(workdir / CHECKPOINTS):
            own = record_in(workdir, step)
            if own is not None and not is_on_branch(step, history_of(own), history):
                _move(workdir, step, history[-1])
    processes.barrier("abandoned checkpoints moved")


def _move(workdir: Path, step: int, change: Change) -> None:
    folder = workdir / (change.get("kept") or ABANDONED) / CHECKPOINTS
    folder.mkdir(parents=True, exist_ok=True)
    (workdir / CHECKPOINTS / str(step)).rename(folder / str(step))


def _report(plan: Plan, change: Change, updates: int, learning_rate: Schedule) -> str:
    """The lines about a change: its keys, the learning rate before and after, and where the rest is kept."""
    step, old = change["step"], plan.saved["config"]
    lines = [f"changed at step {step}: {describe(change['changed']) or 'nothing, the steps after it are repeated'}"]
    optimizer = old.get("optimizer", {})
    if {"schedule", "learning_rate", "warmup"} <= optimizer.keys() and "duration" in old:
        before = learning_rate_schedule(ConfigDict(optimizer), old["duration"])
        rates = [float(schedule(updates)) for schedule in (before, learning_rate)]
        lines.append(f"learning rate of the next step: {rates[0]:.3g} -> {rates[1]:.3g}")
    if change["kept"]:
        lines.append(f"what is later than step {step} is kept in {plan.workdir}/{change['kept']}")
    return "\n".join(lines)
