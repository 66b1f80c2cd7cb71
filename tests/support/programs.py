"""What tests ask of a compiled train step."""

from collections import Counter

from rankclip_jax.plan.costs import costs_of, main_memory_arrays
from rankclip_jax.plan.hlo import Module, Shape


def batch_arrays(program: Module, rows: int, batch: int) -> list[Shape]:
    """Arrays in main memory with an axis of the whole `batch` and one of at least `rows`: parts of B x B similarities.

    Arrays of embeddings, [B, D] with D < rows, are left out.
    """
    found = {shape for _, shape in main_memory_arrays(program) if batch in shape.dims}
    return [shape for shape in found if shape.elements >= rows * batch and _other_axis(shape, batch) >= rows]


def _other_axis(shape: Shape, batch: int) -> int:
    """The largest axis beside one of the whole batch."""
    others = list(shape.dims)
    others.remove(batch)
    return max(others, default=1)


def gathered(program: Module) -> Counter:
    """How often each array is gathered from all devices: {(dtype, dims): runs}."""
    runs = Counter()
    for collective in costs_of(program).collectives:
        if collective.kind == "all-gather":
            for shape in collective.shapes:
                runs[shape.dtype, shape.dims] += collective.times
    return runs
