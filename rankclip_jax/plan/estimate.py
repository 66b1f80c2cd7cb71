"""The time of a step, estimated from its costs and the peak rates of the devices.

Two estimates, because no program is as fast as its roofline. The first is the roofline of each operation alone: the
longest of its matrix products, its vector work and its traffic to memory, at peak rates. The second takes the cycles
that the TPU compiler expects of an operation. They include tiles, padding and layouts, but no overlap of operations.
Neither includes the input. Neither has been compared with a real TPU.
"""

from typing import NamedTuple

from rankclip_jax.parallel.device_peaks import Peaks
from rankclip_jax.plan.costs import Costs
from rankclip_jax.plan.topology import Machine

# Units of a TPU chip: (cores, matrix units of a core, side of a unit). They give the clock rate from the peak FLOP/s.
UNITS = {"v5e": (1, 4, 128), "v5p": (2, 4, 128)}
LANES, ALUS = 8 * 128, 4  # of the vector unit of a core


class Estimate(NamedTuple):
    """Seconds of one step.

    Attributes:
      terms: seconds that each resource alone needs: compute (matrix products), vector, hbm, ici.
      limit: the resource that needs most.
      roofline: all operations at peak rates, with collectives hidden behind them: no step is faster.
      compiler: the compiler's expectation of all operations, followed by all collectives; 0 if it has none.
    """

    terms: dict[str, float]
    limit: str
    roofline: float
    compiler: float


def clock_rate(peaks: Peaks) -> float:
    """Cycles per second; 0 if the units of the chip are not known."""
    if peaks.name not in UNITS:
        return 0.0
    cores, units, side = UNITS[peaks.name]
    return peaks.flops / (cores * units * side * side * 2)


def vector_rate(peaks: Peaks) -> float:
    """Operations per second of the vector units; for unknown chips, those of a v5e."""
    cores = UNITS.get(peaks.name, (1,))[0]
    return cores * LANES * ALUS * (clock_rate(peaks) or 1.5e9)


def estimate(costs: Costs, machine: Machine) -> Estimate | None:
    """Estimate a step on `machine`; None for machines without peaks, such as CPUs."""
    peaks = machine.peaks
    if peaks is None:
        return None
    ici = sum(c.times * c.sent / machine.ici_rate(c.group) for c in costs.collectives if c.sent)
    vector, clock = vector_rate(peaks), clock_rate(peaks)
    terms = {
        "compute": costs.flops / peaks.flops,
        "vector": costs.vector / vector,
        "hbm": costs.bytes / peaks.hbm_rate,
        "ici": ici,
    }
    alone = [max(w.flops / peaks.flops, w.vector / vector, w.bytes / peaks.hbm_rate) for w in costs.works]
    expected = [w.cycles / clock if w.cycles and clock else time for w, time in zip(costs.works, alone, strict=True)]
    has_cycles = clock and any(work.cycles for work in costs.works)
    return Estimate(
        terms=terms,
        limit=max(terms, key=terms.get),
        roofline=max(sum(alone), ici),
        compiler=sum(expected) + ici if has_cycles else 0.0,
    )
