"""The results of one case: what is stored in the file of --out, and the advice if the program does not fit."""

import math
from collections import defaultdict
from typing import Any

from rankclip_jax.models.flops import train_flops
from rankclip_jax.plan.costs import COLLECTIVES, Costs, costs_of, main_memory_arrays
from rankclip_jax.plan.estimate import Estimate, estimate
from rankclip_jax.plan.hlo import Module, parse
from rankclip_jax.plan.step import Compiled
from rankclip_jax.plan.topology import Machine
from rankclip_jax.training.setup import StepParts

Result = dict[str, Any]
LIGHTER_REMAT = {"none": "dots", "dots": "block"}  # the next policy, which keeps fewer activations
LARGEST = 5  # arrays that are named


def result_of(parts: StepParts, machine: Machine, compiled: Compiled) -> Result:
    """Everything about one compiled step, as JSON values; bytes and FLOPs are those of one device."""
    config = parts.config
    found = {
        "topology": machine.name,
        "devices": parts.mesh.size,
        "mesh": dict(parts.mesh.shape),
        "model": config.model.name,
        "dtype": config.model.dtype,
        "objective": config.objective.name,
        "batch_size": config.batch_size,
        "micro_batches": config.micro_batches,
        "steps": config.duration,
        "compile_seconds": round(compiled.seconds, 1),
        "hbm_bytes": machine.peaks.hbm_bytes if machine.peaks else 0,
    }
    if compiled.memory is None:
        return found | {
            "fits": False,
            "needed_bytes": compiled.needed,
            "advice": advice(parts, machine, compiled.needed),
        }
    module = parse(compiled.text)
    costs = costs_of(module)
    memory = compiled.memory._asdict() | {"total": compiled.memory.total}
    fits = not machine.peaks or compiled.memory.total <= machine.peaks.hbm_bytes
    found |= {"fits": fits, "memory_bytes": memory}
    found |= {"advice": "" if fits else advice(parts, machine, compiled.memory.total)}
    found |= {"flops": costs.flops, "hbm_traffic_bytes": costs.bytes, "vector_operations": costs.vector}
    found |= {"collectives": _collectives(costs), "largest_arrays": _largest(module)}
    estimated = estimate(costs, machine)
    return found | (_times(parts, machine, estimated) if estimated else {})


def _collectives(costs: Costs) -> dict[str, dict[str, int]]:
    """For each kind: how many there are in the program, how often they run, and the bytes that a device sends."""
    found: dict[str, dict[str, int]] = {}
    for kind in COLLECTIVES:
        of_kind = [c for c in costs.collectives if c.kind == kind and c.group.size > 1]
        if of_kind:
            found[kind] = {"count": len(of_kind), "runs": sum(c.times for c in of_kind), "bytes": costs.sent(kind)}
    return found


def _largest(module: Module) -> list[str]:
    """The largest arrays in main memory, such as "bf16[12,12800,3072]"."""
    sizes: dict[str, int] = defaultdict(int)
    for _, shape in main_memory_arrays(module):
        sizes[f"{shape.dtype}[{','.join(map(str, shape.dims))}]"] = shape.bytes
    return sorted(sizes, key=sizes.get, reverse=True)[:LARGEST]


def _times(parts: StepParts, machine: Machine, estimated: Estimate) -> Result:
    """Times, rates and model FLOP/s utilisation (MFU), which counts no recomputation."""
    config, devices = parts.config, parts.mesh.size
    useful = train_flops(config.model) * config.batch_size / devices

    def of(seconds: float) -> Result | None:
        if not seconds:
            return None
        mfu = useful / seconds / machine.peaks.flops
        return {"seconds": seconds, "mfu": mfu, "pairs_per_second": config.batch_size / seconds}

    return {
        "seconds": estimated.terms,
        "limit": estimated.limit,
        "roofline": of(estimated.roofline),
        "compiler": of(estimated.compiler),
    }


def advice(parts: StepParts, machine: Machine, needed: int) -> str:
    """The keys that reduce memory, those that cost no time first."""
    config, options = parts.config, []
    local = config.batch_size // parts.mesh.size
    if config.model.dtype == "float32":
        options.append("config.model.dtype=bfloat16")
    fsdp = parts.mesh.shape["fsdp"]
    if fsdp < parts.mesh.size:
        divisors = [n for n in range(fsdp + 1, parts.mesh.size + 1) if parts.mesh.size % n == 0]
        options.append(f"config.mesh.fsdp={next((n for n in divisors if n >= 4 * fsdp), divisors[-1])}")
    for side in ("image", "text"):
        lighter = LIGHTER_REMAT.get(config.model[side].get("remat"))
        options += [f"config.model.{side}.remat={lighter}"] if lighter else []
    # A micro-batch needs about its share of the temporaries, which are nearly all of what is too much.
    factor = config.micro_batches * math.ceil(needed / machine.peaks.hbm_bytes + 1)
    micro = next((n for n in range(factor, local + 1) if local % n == 0), local)
    if micro > config.micro_batches:
        options.append(f"config.micro_batches={micro}")
    options.append("a smaller config.batch_size or a larger --topology")
    return "; ".join(options)
