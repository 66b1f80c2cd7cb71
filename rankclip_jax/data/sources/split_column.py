"""Tables with a column of splits: the location names the splits to read, as in ``csv:pairs.csv#train+val``."""

from collections.abc import Collection

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rankclip_jax.data.sources.columns import find_usual
from rankclip_jax.data.storage.split_names import are_splits
from rankclip_jax.errors import UserError, lookup

COLUMNS = ("split", "data_split", "dataset_split", "subset", "partition", "set", "fold", "phase", "usage")
ALL = "*"
MOST = 100  # different values of a column of splits


def split_column(names: Collection[str]) -> str | None:
    """The column with a usual name of splits; its values may be something else."""
    return find_usual(names, COLUMNS)


def rows_of_splits(values: pa.Array | pa.ChunkedArray | None, wanted: str, where: str) -> np.ndarray | None:
    """Choose the rows of some splits.

    Args:
      values: the split of each row, text or bytes; None for a table without such a column.
      wanted: names of splits, joined by "+"; `ALL`; "" if there must be only one split.
      where: the file, for messages.

    Returns:
      bool [n]; None for all rows.

    Raises:
      UserError: there are several splits and none is wanted, or a wanted one does not exist.
    """
    if wanted == ALL:
        return None
    if values is None:
        if wanted:
            raise UserError(f"{where} has no column of splits, such as 'split': leave out #{wanted}.")
        return None
    distinct = pc.unique(values)
    known = [_text(value) for value in distinct.to_pylist()] if len(distinct) <= MOST else []
    if not wanted and not are_splits(known):
        return None
    if not wanted:
        raise UserError(
            f"{where} holds several splits: name one or more, as in {where}#{known[0]}. Known: {', '.join(known)}."
        )
    names = [name.strip() for name in wanted.split("+")]
    for name in names:
        lookup(dict.fromkeys(known), name, f"split of {where}")
    chosen = [value for value, name in zip(distinct, known, strict=True) if name in names]
    chosen = pa.array([value.as_py() for value in chosen], distinct.type)
    return pc.is_in(values, chosen).to_numpy(zero_copy_only=False)


def _text(value: str | bytes | None) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else value or ""
