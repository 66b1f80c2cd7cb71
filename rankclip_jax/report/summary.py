"""The facts about the run at the top of the page."""

import itertools
from collections.abc import Mapping
from typing import Any

from rankclip_jax.config.history import describe, history_of
from rankclip_jax.report.run_folder import Run

IDLE_SECONDS = 600.0  # a longer gap between two rows of metrics means that the run was stopped


def facts(run: Run) -> list[tuple[str, str, str]]:
    """Return (heading, value, detail) for each known fact about the run."""
    found = [_towers(run), _data(run), _training(run), _time(run), _hardware(run)]
    return [fact for fact in found if fact is not None] + _changes(run)


def seconds_trained(run: Run) -> float | None:
    """Return the seconds of training: the logged clock, or else the time between rows without stops of the run."""
    clock = [row["train/elapsed_seconds"] for row in run.history if "train/elapsed_seconds" in row]
    if clock:
        return clock[-1]
    times = [row["time"] for row in run.history if "time" in row]
    if len(times) < 2:
        return None
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    usual = sorted(gaps)[len(gaps) // 2]
    return sum(gap for gap in gaps if 0 <= gap <= max(IDLE_SECONDS, 20 * usual))


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
    steps = [row["step"] for row in run.history]
    done = max(steps) if steps else run.results.get("step")
    if done is None:
        return None
    value = f"{done:,}" if not planned or done >= planned else f"{done:,} of {planned:,}"
    batch = run.config.get("batch_size")
    return "Steps", value, f"batches of {batch:,}" if batch else ""


def _changes(run: Run) -> list[tuple[str, str, str]]:
    """Return one fact for each change of the config on purpose."""
    changes = history_of(run.record)
    return [("Changed", f"at step {change['step']:,}", describe(change["changed"])) for change in changes]


def _time(run: Run) -> tuple[str, str, str] | None:
    seconds = seconds_trained(run)
    if seconds is None:
        return None
    rates = [row["train/samples_per_second"] for row in run.history if "train/samples_per_second" in row]
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
    """Return the total number of parameters, from a total or from one count for each tower."""
    if not isinstance(params, Mapping):
        return 0
    if "total" in params:
        return int(params["total"])
    return sum(_parameters(value) if isinstance(value, Mapping) else int(value) for value in params.values())


def _count(number: int) -> str:
    return f"{number / 1e6:.1f} M" if number >= 1e6 else f"{number:,}"
