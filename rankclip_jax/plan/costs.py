"""What one device does in one run of a compiled program: matrix products, vector work, traffic to memory, collectives.

Loops count as often as they run. Traffic counts arrays in the device's main memory (HBM) only: arrays that the compiler
keeps on the chip are free.
"""

import math
import re
from collections.abc import Iterator
from typing import NamedTuple

from rankclip_jax.plan.groups import Group, group_of
from rankclip_jax.plan.hlo import Computation, Executed, Instruction, Module, Shape, executed
from rankclip_jax.plan.traffic import hbm_bytes

COLLECTIVES = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
# Operations of the vector unit for one element of the result.
ARITHMETIC = ("add", "subtract", "multiply", "maximum", "minimum", "compare", "select", "and", "or", "xor", "negate")
ARITHMETIC += ("abs", "floor", "sign", "clamp", "convert", "shift-left", "shift-right-logical", "not")
FUNCTIONS = ("exponential", "log", "tanh", "rsqrt", "sqrt", "divide", "power", "logistic", "erf", "cosine", "sine")
FUNCTIONS += ("exponential-minus-one", "log-plus-one", "remainder", "cbrt", "atan2")
FUNCTION_OPERATIONS = 4  # a TPU computes functions at a quarter of the rate of additions
SORT_OPERATIONS = 4  # for one element and operand in each stage of a bitonic sort: compare, exchange, select


class Collective(NamedTuple):
    """One collective, as often as it runs.

    Attributes:
      kind: one of `COLLECTIVES`.
      shapes: of the result.
      sent: bytes that one device sends in one run, with the ring algorithm.
      times: how often it runs.
      group: the devices that take part.
    """

    kind: str
    shapes: tuple[Shape, ...]
    sent: int
    times: int
    group: Group


class Work(NamedTuple):
    """One instruction that the device runs by itself, all its runs together; `cycles` is what the compiler expects."""

    flops: float
    vector: float
    bytes: float
    cycles: int


class Costs(NamedTuple):
    """The totals of one device."""

    flops: float
    vector: float
    bytes: float
    works: tuple[Work, ...]
    collectives: tuple[Collective, ...]

    def sent(self, kind: str) -> int:
        """Bytes that one device sends in collectives of one kind."""
        return sum(c.sent * c.times for c in self.collectives if c.kind == kind)


def costs_of(module: Module) -> Costs:
    """Count everything in a program."""
    works: list[list[float]] = []
    collectives = []
    for step in executed(module):
        instruction, computation = step.instruction, step.computation
        collectives += filter(None, [_collective(step)])
        if not step.fused:
            cycles = re.search(r'"estimated_cycles":"(\d+)"', instruction.attributes)
            traffic = hbm_bytes(module, instruction, computation)
            works.append([0.0, 0.0, step.times * traffic, step.times * int(cycles[1]) if cycles else 0])
        # An instruction in a fusion belongs to the fusion, which came before.
        works[-1][0] += step.times * matrix_flops(instruction, computation)
        works[-1][1] += step.times * vector_operations(instruction, computation)
    kept = tuple(Work(*work) for work in works if any(work))
    flops, vector, traffic, _ = (math.fsum(column) for column in zip(*kept, strict=True)) if kept else (0.0,) * 4
    return Costs(flops, vector, traffic, kept, tuple(collectives))


def matrix_flops(instruction: Instruction, computation: Computation) -> int:
    """Operations of a matrix product or convolution, two for each multiply-add; 0 for others."""
    if instruction.opcode == "dot":
        contracted = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", instruction.attributes)
        left = computation[instruction.operands[0]].shapes[0].dims
        inner = math.prod(left[int(axis)] for axis in contracted[1].split(",") if axis) if contracted else 1
        return 2 * instruction.shapes[0].elements * inner
    if instruction.opcode == "convolution":
        return _convolution_flops(instruction, computation)
    return 0


def _convolution_flops(instruction: Instruction, computation: Computation) -> int:
    """Padding and the holes of dilated arrays do not count, as in XLA's own analysis."""
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", instruction.attributes)
    image, kernel = (computation[name].shapes[0].dims for name in instruction.operands[:2])
    out = instruction.shapes[0].dims
    inner = kernel[labels[2].index("i")]
    outer = out[labels[3].index("b")] * out[labels[3].index("f")]
    batch_groups = re.search(r"batch_group_count=(\d+)", instruction.attributes)
    if batch_groups:  # each group of the batch has its own output features
        outer //= int(batch_groups[1])
        outer *= max(1, image[labels[1].index("b")] // int(batch_groups[1]) // out[labels[3].index("b")])
    window = _window(instruction.attributes)
    taps = 1
    for axis in range(len(window["size"])):
        digit = str(axis)
        sizes = image[labels[1].index(digit)], out[labels[3].index(digit)]
        taps *= _valid_taps(
            *sizes, *(window[key][axis] for key in ("size", "stride", "pad", "lhs_dilate", "rhs_dilate"))
        )
    return 2 * outer * inner * taps


def _window(attributes: str) -> dict[str, list]:
    """The window of a convolution, each key with a value for each spatial dimension."""
    text = re.search(r"window=\{([^}]*)\}", attributes)
    found = dict(part.split("=") for part in text[1].split()) if text else {}
    sizes = [int(size) for size in found["size"].split("x")] if "size" in found else []
    window = {"size": sizes, "pad": [(0, 0)] * len(sizes)}
    for key in ("stride", "lhs_dilate", "rhs_dilate"):
        window[key] = [int(value) for value in found[key].split("x")] if key in found else [1] * len(sizes)
    if "pad" in found:
        window["pad"] = [tuple(int(side) for side in pair.split("_")) for pair in found["pad"].split("x")]
    return window


def _valid_taps(size: int, out: int, kernel: int, stride: int, pad: tuple, dilate: int, kernel_dilate: int) -> int:
    """The number of pairs (output position, kernel position) that meet an element of the image."""
    count = 0
    for tap in range(kernel):
        for position in range(out):
            at = position * stride + tap * kernel_dilate - pad[0]
            count += at >= 0 and at % dilate == 0 and at // dilate < size
    return count


def vector_operations(instruction: Instruction, computation: Computation) -> float:
    """Operations of the vector unit: arithmetic on elements, functions, reductions and sorts."""
    elements = instruction.shapes[0].elements if instruction.shapes else 0
    if instruction.opcode in ARITHMETIC:
        return elements
    if instruction.opcode in FUNCTIONS:
        return FUNCTION_OPERATIONS * elements
    if instruction.opcode in ("reduce", "reduce-window", "scatter"):
        return computation[instruction.operands[0]].shapes[0].elements
    if instruction.opcode == "sort":
        axis = int(re.search(r"dimensions=\{(\d+)", instruction.attributes)[1])
        levels = math.ceil(math.log2(max(2, instruction.shapes[0].dims[axis])))
        return SORT_OPERATIONS * len(instruction.operands) * elements * levels * (levels + 1) / 2
    return 0


def _collective(step: Executed) -> Collective | None:
    """The collective that an instruction begins; None for others, and for the later parts of an asynchronous one."""
    instruction = step.instruction
    kind = instruction.opcode.removesuffix("-start")
    if kind not in COLLECTIVES or re.search(r'"flag_start":"(?!-1")', instruction.attributes):
        return None
    group = group_of(instruction.attributes)
    result = _result_shapes(instruction, step.computation)
    size = sum(shape.bytes for shape in result)
    share = (group.size - 1) / group.size
    sent = {
        "all-gather": size * share,
        "all-reduce": 2 * size * share,
        "reduce-scatter": size * (group.size - 1),
        "all-to-all": size * share,
        "collective-permute": size,
    }[kind]
    if _is_scattered(step):
        kind, sent = "reduce-scatter", sent / 2
    return Collective(kind, result, round(sent), step.times, group)


def _result_shapes(instruction: Instruction, computation: Computation) -> tuple[Shape, ...]:
    """The shapes of the result. The start of an asynchronous collective also returns its operands, which come first."""
    if not instruction.opcode.endswith("-start") or instruction.opcode == "all-reduce-start":
        return instruction.shapes
    arrays = [shape for shape in instruction.shapes if shape.dims]
    return tuple(arrays[len(instruction.operands) :][: len(instruction.operands)])


def _is_scattered(step: Executed) -> bool:
    """Whether a fusion keeps only this device's part of an all-reduce, as TPUs write a reduce-scatter."""
    if step.instruction.opcode != "all-reduce" or not step.fused:
        return False
    users = [other for other in step.computation.values() if step.instruction.name in other.operands]
    return bool(users) and all(user.opcode == "dynamic-slice" for user in users)


def main_memory_arrays(module: Module) -> Iterator[tuple[str, Shape]]:
    """(name, shape) of every array that an instruction outside fusions leaves in the device's main memory."""
    for step in executed(module):
        if not step.fused:
            for shape in step.instruction.shapes:
                if shape.space == 0:
                    yield step.instruction.name, shape
