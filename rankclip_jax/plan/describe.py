"""The results of a plan as text."""

from collections.abc import Sequence

from rankclip_jax.plan.result import Result
from rankclip_jax.terminal.tables import text_table

GiB = 2**30


def describe(result: Result) -> str:
    """One case, a line for each fact."""
    rows = {
        "program": f"{result['model']} {result['dtype']}, {result['objective']}, {result['batch_size']:,} pairs, "
        f"{result['batch_size'] // result['devices']} per device, {result['micro_batches']} micro-batch(es)",
        "devices": f"{result['topology']}: {result['devices']} devices, mesh {result['mesh']}",
        "compiled in": f"{result['compile_seconds']:.0f} s",
        "memory": _memory(result),
    }
    if result["advice"]:
        rows["to fit"] = result["advice"]
    if "flops" in result:
        rows |= {"FLOPs": f"{result['flops']:.3g} per device", "collectives": _collectives(result)}
        rows["largest"] = ", ".join(result["largest_arrays"])
    if "roofline" in result:
        rows |= _times(result)
    return "\n".join(f"  {name:<12} {value}" for name, value in rows.items())


def _memory(result: Result) -> str:
    has = f" of {result['hbm_bytes'] / GiB:.1f} GiB" if result["hbm_bytes"] else ""
    verdict = ("fits" if result["fits"] else "DOES NOT FIT") if has else "per device"
    if "memory_bytes" not in result:
        return f"at least {result['needed_bytes'] / GiB:.1f}{has}: {verdict}"
    parts = {name: f"{size / GiB:.2f}" for name, size in result["memory_bytes"].items()}
    return (
        f"{parts['total']} GiB{has}: {verdict} (arguments {parts['arguments']}, outputs {parts['outputs']} of which "
        f"{parts['aliases']} reuse arguments, temporaries {parts['temporaries']}, program {parts['program']})"
    )


def _collectives(result: Result) -> str:
    found = [f"{kind} x {each['runs']}: {each['bytes'] / 1e6:,.0f} MB" for kind, each in result["collectives"].items()]
    return ", ".join(found) + " sent per device and step" if found else "none"


def _times(result: Result) -> Result:
    terms = ", ".join(f"{name} {1e3 * seconds:.1f}" for name, seconds in result["seconds"].items())
    rows = {"limit": f"{result['limit']} (ms if it were alone: {terms})"}
    for name, what in (("roofline", "at least"), ("compiler", "compiler")):
        each = result[name]
        if each:
            rate = f"{each['pairs_per_second']:,.0f} pairs/s, MFU {each['mfu']:.0%}"
            rows[what] = f"{1e3 * each['seconds']:.0f} ms per step, {rate}"
    return rows | _run_time(result)


def _run_time(result: Result) -> Result:
    if not result.get("pairs_known"):
        return {}
    hours = [
        f"{result['steps'] * result[name]['seconds'] / 3600:,.1f}" for name in ("roofline", "compiler") if result[name]
    ]
    return {"run": f"{result['steps']:,} steps: {' to '.join(hours)} hours without evaluation and input"}


def table(results: Sequence[Result]) -> str:
    """All cases, a row for each."""
    heading = ("objective", "batch", "fsdp", "micro", "GiB", "fits", "all-gather MB", "other MB", "limit", "ms", "MFU")
    return text_table([heading, *(_row(result) for result in results)])


def _row(result: Result) -> tuple[str, ...]:
    memory = result["memory_bytes"]["total"] if "memory_bytes" in result else result["needed_bytes"]
    sent = {kind: each["bytes"] / 1e6 for kind, each in result.get("collectives", {}).items()}
    gathered = sent.pop("all-gather", 0.0)
    estimates = [result[name] for name in ("roofline", "compiler") if result.get(name)]
    return (
        result["objective"],
        f"{result['batch_size']:,}",
        str(result["mesh"]["fsdp"]),
        str(result["micro_batches"]),
        f"{memory / GiB:.2f}",
        "yes" if result["fits"] else "no",
        f"{gathered:,.0f}",
        f"{sum(sent.values()):,.0f}",
        result.get("limit", "-"),
        " - ".join(f"{1e3 * each['seconds']:.0f}" for each in estimates) or "-",
        " - ".join(f"{each['mfu']:.0%}" for each in estimates) or "-",
    )
