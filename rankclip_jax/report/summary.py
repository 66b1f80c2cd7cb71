"""The facts at the top of the page."""

import itertools
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from rankclip_jax.errors import UserError
from rankclip_jax.objectives import build_objective, objective_config
from rankclip_jax.objectives.objective import RunInfo
from rankclip_jax.report.run_folder import Run

IDLE = 600.0  # seconds between two lines that mean the run was stopped in between


def equation(config: Mapping[str, Any]) -> str | None:
    """Return the objective written out, as the objective itself words it; its name if that fails."""
    objective = config.get("objective")
    if not isinstance(objective, Mapping):
        return None
    length = RunInfo(total_steps=max(int(config.get("duration") or 1000), 2), steps_per_epoch=1)
    try:
        options = objective_config(objective["name"]).to_dict() | dict(objective)  # a run may be older than an option
        return build_objective(ConfigDict(options), length).equation
    except (UserError, AttributeError, KeyError, TypeError, ValueError):  # a run of another version of this package
        return str(objective.get("name", "")) or None


def facts(run: Run) -> list[tuple[str, str, str]]:
    """Return (heading, value, detail) of what the run folder knows about the run."""
    found = [_towers(run), _data(run), _training(run), _time(run), _hardware(run)]
    return [fact for fact in found if fact is not None]


def seconds_trained(run: Run) -> float | None:
    """Return the time the run took: its own clock if it logged one, else the time between its lines.

    Gaps of a run that was stopped and resumed do not count.
    """
    clock = [line["train/elapsed_seconds"] for line in run.history if "train/elapsed_seconds" in line]
    if clock:
        return clock[-1]
    times = [line["time"] for line in run.history if "time" in line]
    if len(times) < 2:
        return None
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    usual = sorted(gaps)[len(gaps) // 2]
    return sum(gap for gap in gaps if 0 <= gap <= max(IDLE, 20 * usual))


def _towers(run: Run) -> tuple[str, str, str] | None:
    model = run.config.get("model")
    if not isinstance(model, Mapping):
        return None
    total = _parameters(run.record.get("params", {}))
    towers = [str(model[side]["tower"]) for side in ("image", "text") if isinstance(model.get(side), Mapping)]
    detail = [" + ".join(towers).replace("_", " ")] if towers else []
    detail += [f"{_count(total)} parameters"] if total else []
    detail += [str(model["dtype"])] if "dtype" in model else []
    return "Towers", str(model.get("name", "custom")), ", ".join(detail)


def _data(run: Run) -> tuple[str, str, str] | None:
    data = run.record.get("data")
    if not isinstance(data, Mapping):
        return None
    counts = data.get("counts") or {}
    sizes = f"{counts['train']:,} training images" if "train" in counts else ""
    digest = f"digest {str(data['digest'])[:8]}" if "digest" in data else ""
    return "Data", str(data.get("name", "unnamed")), ", ".join(part for part in (sizes, digest) if part)


def _training(run: Run) -> tuple[str, str, str] | None:
    planned = run.config.get("duration")
    steps = [line["step"] for line in run.history]
    done = max(steps) if steps else run.results.get("step")
    if done is None:
        return None
    value = f"{done:,}" if not planned or done >= planned else f"{done:,} of {planned:,}"
    batch = run.config.get("batch_size")
    return "Steps", value, f"batches of {batch:,}" if batch else ""


def _time(run: Run) -> tuple[str, str, str] | None:
    seconds = seconds_trained(run)
    if seconds is None:
        return None
    rates = [line["train/samples_per_second"] for line in run.history if "train/samples_per_second" in line]
    median = sorted(rates)[len(rates) // 2] if rates else None
    return "Wall time", duration(seconds), f"{median:,.0f} samples a second" if median else ""


def _hardware(run: Run) -> tuple[str, str, str] | None:
    devices = run.record.get("devices")
    if not isinstance(devices, Mapping):
        return None
    kind = devices.get("kind") or devices.get("platform") or "unknown"
    count = devices.get("count") or devices.get("device_count")
    version = run.record.get("versions", {}).get("jax")
    return "Hardware", f"{count} × {kind}" if count else str(kind), f"jax {version}" if version else ""


def duration(seconds: float) -> str:
    """Return 45 s, 5 min 40 s, 3 h 12 min or 2 d 4 h."""
    units = (("d", 86400), ("h", 3600), ("min", 60), ("s", 1))
    left, said = round(seconds), []
    for unit, size in units:
        if left >= size or said or size == 1:
            said.append((left // size, unit))
            left %= size
    return " ".join(f"{amount} {unit}" for amount, unit in said[:2] if amount or len(said) == 1)


def _parameters(params: Any) -> int:
    """Return the total number of parameters, from a total or a count per tower."""
    if not isinstance(params, Mapping):
        return 0
    if "total" in params:
        return int(params["total"])
    return sum(_parameters(value) if isinstance(value, Mapping) else int(value) for value in params.values())


def _count(number: int) -> str:
    return f"{number / 1e6:.1f} M" if number >= 1e6 else f"{number:,}"
