"""Token embeddings with more rows than the tokenizer has ids: trainers round them up, for the speed of matrix products.

The additional rows are never read. They are left out, so that a model has one vocabulary size.
"""

LARGEST_ROUNDING = 1024


def fits(rows: int, ids: int) -> bool:
    """Whether an embedding of `rows` rows can belong to a tokenizer of `ids` ids.

    It can if `rows` is `ids`, or at most 2 % more, or `ids` rounded up to a multiple of a power of two up to 1,024.
    """
    extra = rows - ids
    if extra < 0:
        return False
    multiples = (2**k for k in range(1, LARGEST_ROUNDING.bit_length()))
    return 50 * extra <= ids or any(rows % m == 0 and extra < m for m in multiples)
