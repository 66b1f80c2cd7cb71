"""A reader of optimised HLO text: its instructions, and how often each of them runs.

XLA's own `cost_analysis` counts the body of a loop once. Here the trip count of every loop is read from the program.
`executed` multiplies the trip counts of all loops that contain an instruction.
"""

import math
import re
from collections.abc import Iterator
from typing import NamedTuple

BITS = {"pred": 8, "token": 0, "opaque": 0, "bf16": 16, "c64": 64, "c128": 128}
SHAPE = re.compile(r"(\w+)\[([\d,<=]*)\](?:\{([^{}]*)\})?")
NAME = re.compile(r"%([\w.\-]+)")
HEADER = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\) -> .*\{$")
CALLS = {"fusion": "calls", "call": "to_apply", "async-start": "calls", "while": "body"}
PASS_ON = ("copy", "bitcast", "convert", "reshape", "copy-done")  # their result has the value of their operand


class Shape(NamedTuple):
    """Dtype, dimensions, and memory space: 0 is the device's main memory, others are on the chip."""

    dtype: str
    dims: tuple[int, ...]
    space: int = 0

    @property
    def elements(self) -> int:
        return math.prod(self.dims)

    @property
    def bytes(self) -> int:
        bits = BITS.get(self.dtype) if self.dtype in BITS else int(re.sub(r"^\D+(\d+).*", r"\1", self.dtype))
        return (self.elements * bits + 7) // 8


class Instruction(NamedTuple):
    """One instruction; a tuple has several shapes, in their order."""

    name: str
    opcode: str
    shapes: tuple[Shape, ...]
    operands: tuple[str, ...]
    literal: str  # the text between the parentheses: the value of a constant, the number of a parameter
    attributes: str

    def attribute(self, key: str) -> str:
        """The computation named by an attribute such as ``body=%name``; "" without it."""
        found = re.search(rf"\b{key}=%?([\w.\-]+)", self.attributes)
        return found[1] if found else ""


class Computation(dict):
    """{name: instruction} in the order of the text; `root` is the name of the result."""

    root: str = ""


class Module(NamedTuple):
    computations: dict[str, Computation]
    entry: str


class Executed(NamedTuple):
    """An instruction, its computation, how often it runs, and whether it is inside a fusion."""

    instruction: Instruction
    computation: Computation
    times: int
    fused: bool


def parse(text: str) -> Module:
    """Read the text of `jax.stages.Compiled.as_text`."""
    computations, current, entry = {}, None, ""
    for line in text.splitlines():
        header = HEADER.match(line)
        if header:
            current = computations.setdefault(header[2], Computation())
            entry = header[2] if header[1] else entry
        elif current is not None and " = " in line and line.startswith("  "):
            instruction = _instruction(line)
            current[instruction.name] = instruction
            if line.startswith("  ROOT "):
                current.root = instruction.name
    return Module(computations, entry)


def _instruction(line: str) -> Instruction:
    left, _, right = line.strip().partition(" = ")
    # The type of a tuple is in parentheses, any other ends at the first space.
    end = _closing(right, 0) + 1 if right.startswith("(") else right.index(" ")
    opening = right.index("(", end)
    closing = _closing(right, opening)
    inside = right[opening + 1 : closing]
    return Instruction(
        name=left.removeprefix("ROOT ").removeprefix("%"),
        opcode=right[end:opening].strip(),
        shapes=tuple(shapes_of(right[:end])),
        operands=tuple(NAME.findall(inside)),
        literal=inside,
        attributes=right[closing + 1 :],
    )


def _closing(text: str, start: int) -> int:
    """The index of the parenthesis that closes the one at `start`."""
    depth = 0
    for index in range(start, len(text)):
        depth += {"(": 1, ")": -1}.get(text[index], 0)
        if not depth:
            return index
    raise ValueError(f"no closing parenthesis in {text[start : start + 80]!r}")


def shapes_of(text: str) -> Iterator[Shape]:
    """The array shapes in a type, also of nested tuples."""
    for dtype, dims, layout in SHAPE.findall(text):
        space = re.search(r"S\((\d+)\)", layout)
        sizes = tuple(int(size) for size in re.findall(r"\d+", dims))
        yield Shape(dtype, sizes, int(space[1]) if space else 0)


def executed(module: Module) -> Iterator[Executed]:
    """Every instruction that the program runs, those inside fusions included.

    Functions of single elements (of reduce, sort, all-reduce ...) are left out. All branches of a conditional count.
    """
    yield from _visit(module, module.entry, 1, False)


def _visit(module: Module, name: str, times: int, fused: bool) -> Iterator[Executed]:
    computation = module.computations[name]
    for instruction in computation.values():
        yield Executed(instruction, computation, times, fused)
        opcode = instruction.opcode
        if opcode == "while":
            trips = trip_count(module, instruction, computation)
            yield from _visit(module, instruction.attribute("body"), times * trips, fused)
        elif opcode == "conditional":
            for branch in _branches(instruction):
                yield from _visit(module, branch, times, fused)
        elif opcode in CALLS and instruction.attribute(CALLS[opcode]) in module.computations:
            yield from _visit(module, instruction.attribute(CALLS[opcode]), times, fused or opcode == "fusion")


def _branches(instruction: Instruction) -> list[str]:
    found = re.search(r"branch_computations=\{([^}]*)\}", instruction.attributes)
    if found:
        return NAME.findall(found[1])
    return [instruction.attribute("true_computation"), instruction.attribute("false_computation")]


def trip_count(module: Module, loop: Instruction, outer: Computation) -> int:
    """How often the body of a `while` runs: the compiler's count, or else from its counter's start, limit and step.

    Loops of unknown length, which no train step has, count once.
    """
    known = re.search(r'"known_trip_count":\{"n":"(\d+)"\}', loop.attributes)
    if known:
        return int(known[1])
    condition, body = (module.computations[loop.attribute(key)] for key in ("condition", "body"))
    compare = condition[condition.root]
    if compare.opcode == "fusion":  # a comparison alone in a fusion, with the same operands in the same order
        inner = module.computations[compare.attribute("calls")]
        compare = inner[inner.root]._replace(operands=compare.operands)
    limit, index = None, None
    for operand in compare.operands:
        instruction = condition[operand]
        limit = limit if _constant(condition, operand) is None else _constant(condition, operand)
        index = _tuple_index(instruction) if instruction.opcode == "get-tuple-element" else index
    if limit is None or index is None:
        return 1
    start = _constant(outer, _element(outer, loop.operands[0], index)) or 0
    step = _step(body, index)
    inclusive = 1 if re.search(r"direction=[LG]E", compare.attributes) else 0
    return max(0, math.ceil((abs(limit - start) + inclusive) / abs(step)))


def _tuple_index(instruction: Instruction) -> int:
    return int(re.search(r"index=(\d+)", instruction.attributes)[1])


def _element(computation: Computation, name: str, index: int) -> str:
    """The name of the element of a tuple; "" if the tuple is not made here."""
    made = computation[name]
    return made.operands[index] if made.opcode == "tuple" and index < len(made.operands) else ""


def _constant(computation: Computation, name: str) -> int | None:
    """The value of an integer constant, also of a copy of it; None for others."""
    while name in computation and computation[name].opcode in PASS_ON and computation[name].operands:
        name = computation[name].operands[0]
    made = computation.get(name)
    is_integer = made is not None and made.opcode == "constant" and re.fullmatch(r"-?\d+", made.literal)
    return int(made.literal) if is_integer else None


def _step(body: Computation, index: int) -> int:
    """What the body adds to its counter, the element `index` of its tuple; 1 if that is not seen."""
    made = body.get(_element(body, body.root, index))
    while made is not None and made.opcode in PASS_ON and made.operands:
        made = body.get(made.operands[0])
    if made is None or made.opcode not in ("add", "subtract"):
        return 1
    constants = [value for value in (_constant(body, operand) for operand in made.operands) if value]
    return constants[0] if constants else 1
