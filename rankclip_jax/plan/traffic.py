"""Bytes that one instruction reads from and writes to the device's main memory.

A fusion reads its operands and writes its results. Of an operand that it only slices, the slices count; of a result
that it updates in place, the update counts: otherwise each layer of a scanned tower would read the weights of all.
"""

from rankclip_jax.plan.hlo import Computation, Instruction, Module, Shape

FREE = ("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "conditional", "call", "after-all")
FREE += ("copy-done", "slice-done", "async-done", "async-update", "partition-id", "replica-id", "iota", "broadcast")
FREE += ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute", "optimization-barrier")
SLICES = ("dynamic-slice", "slice", "gather")
# Users of a fusion's parameter that do not read it: they pass it on to the network or out of the fusion.
PASSING = ("tuple", "custom-call", "all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")


def hbm_bytes(module: Module, instruction: Instruction, computation: Computation) -> int:
    """Bytes of one run of an instruction that is not inside a fusion."""
    opcode = instruction.opcode
    if opcode in FREE or opcode.removesuffix("-start") in FREE or opcode.removesuffix("-done") in FREE:
        return 0
    operands = [computation[name].shapes for name in instruction.operands if name in computation]
    if opcode == "fusion":
        return _fusion_bytes(module.computations[instruction.attribute("calls")], instruction, operands)
    if opcode == "custom-call":
        return 0 if "AllocateBuffer" in instruction.attributes else _bytes(instruction.shapes)
    if opcode in ("copy-start", "slice-start"):  # (result and source, in either order, and a flag)
        moved = min((shape.bytes for shape in instruction.shapes if shape.dims), default=0)
        arrays = [shape for shape in instruction.shapes if shape.dims]
        return sum(moved for shape in arrays[:2] if shape.space == 0)
    if opcode in SLICES:
        source = operands[0][0] if operands and operands[0] else None
        return _bytes(instruction.shapes) + (_sum(instruction.shapes) if source and source.space == 0 else 0)
    if opcode == "dynamic-update-slice":
        update = operands[1]
        return _bytes(update) + (_sum(update) if instruction.shapes[0].space == 0 else 0)
    return _bytes(instruction.shapes) + sum(_bytes(shapes) for shapes in operands)


def _fusion_bytes(inner: Computation, fusion: Instruction, operands: list[tuple[Shape, ...]]) -> int:
    parameters = {int(made.literal): made for made in inner.values() if made.opcode == "parameter"}
    total = 0
    for number, shapes in enumerate(operands):
        if number in parameters and shapes and shapes[0].space == 0:
            total += _read(inner, parameters[number].name, _sum(shapes))
    root = inner[inner.root]
    results = root.operands if root.opcode == "tuple" else (root.name,)
    for name, shape in zip(results, fusion.shapes, strict=False):
        total += _written(inner, name, shape) if shape.space == 0 else 0
    return total


def _read(inner: Computation, name: str, whole: int) -> int:
    """Bytes that a fusion reads of its parameter `name`, which has `whole` bytes."""
    total = 0
    for user in inner.values():
        if name not in user.operands:
            continue
        if user.opcode == "bitcast":
            total += _read(inner, user.name, whole)
        elif user.opcode in SLICES and user.operands[0] == name:
            total += _sum(user.shapes)
        elif user.opcode in PASSING or (user.opcode == "dynamic-update-slice" and user.operands[0] == name):
            continue
        else:
            return whole
    return min(total, whole)


def _written(inner: Computation, name: str, shape: Shape) -> int:
    """Bytes that a fusion writes of its result `name`."""
    made = inner[name]
    while made.opcode == "bitcast" and made.operands[0] in inner:
        made = inner[made.operands[0]]
    if made.opcode == "dynamic-update-slice":
        return _sum(inner[made.operands[1]].shapes)
    return 0 if made.opcode == "parameter" or made.opcode in PASSING else shape.bytes


def _sum(shapes) -> int:
    return sum(shape.bytes for shape in shapes)


def _bytes(shapes) -> int:
    """Bytes of the arrays in main memory."""
    return sum(shape.bytes for shape in shapes if shape.space == 0)
