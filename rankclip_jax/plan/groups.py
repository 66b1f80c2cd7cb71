"""The groups of devices that take part in a collective, in the three forms in which HLO writes them."""

import re
from typing import NamedTuple

import numpy as np


class Group(NamedTuple):
    """The devices of the first group, by their index in the program; all groups have the same size and form."""

    members: tuple[int, ...]

    @property
    def size(self) -> int:
        return max(1, len(self.members))


def group_of(attributes: str) -> Group:
    """The first group in the attributes of a collective; of one device if there is none."""
    text = attributes.partition("replica_groups=")[2] or attributes.partition("source_target_pairs=")[2]
    if text.startswith("{{"):
        return Group(tuple(int(index) for index in text[2 : text.index("}")].split(",")))
    if text.startswith("mesh["):
        return _of_mesh(text)
    if text.startswith("["):
        return _of_iota(text)
    return Group((0,))


def _of_iota(text: str) -> Group:
    """``[2,4]<=[4,2]T(1,0)``: the numbers 0 to 7 as a 4 x 2 array, transposed, cut into 2 rows of 4."""
    rows, shape, order = re.match(r"\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", text).groups()
    numbers = np.arange(np.prod(_integers(shape))).reshape(_integers(shape))
    numbers = numbers.transpose(_integers(order)) if order else numbers
    return Group(tuple(numbers.reshape(_integers(rows)).reshape(-1, _integers(rows)[-1])[0].tolist()))


def _of_mesh(text: str) -> Group:
    """``mesh['a'=4,'b'=2] {'b'}``: devices in a 4 x 2 array; a group has the devices along the named axes."""
    axes, named = re.match(r"mesh\[([^\]]*)\][^{]*\{([^}]*)\}", text).groups()
    sizes = {name: int(size) for name, size in re.findall(r"'([^']+)'=(\d+)", axes)}
    numbers = np.arange(np.prod(list(sizes.values()), dtype=int)).reshape(tuple(sizes.values()))
    chosen = [slice(None) if f"'{name}'" in named else 0 for name in sizes]
    return Group(tuple(np.ravel(numbers[tuple(chosen)]).tolist()))


def _integers(text: str) -> list[int]:
    return [int(number) for number in text.split(",")]
