"""One case of the data benchmark; `worker` says how it is asked.

``describe`` makes the first batch and gives {"pairs", "seconds_to_first"}, ``time`` takes a turn's batches.
"""

import time
from collections.abc import Iterator

from rankclip_jax.benchmark.webdataset_reference import batches
from rankclip_jax.benchmark.worker import Answers, serve
from rankclip_jax.data.images.decode import DecodedRecords
from rankclip_jax.data.images.transforms import make_augment
from rankclip_jax.data.loader import Loader
from rankclip_jax.data.loader_options import LoaderOptions
from rankclip_jax.data.pairs import PairOptions
from rankclip_jax.data.sources.webdataset import WebDataset, open_pairs
from rankclip_jax.data.storage import locations
from rankclip_jax.data.text.tokenizer import TOKENIZERS

AUGMENT = "random_resized_crop"  # open_clip's, by its defaults
CONTEXT_LENGTH = 77


def answers_of(case: dict) -> Answers:
    """Open the tars and start loading."""
    files = locations.expand(case["tars"], "", (".tar",))
    pairs = open_pairs(files, PairOptions())
    began = time.perf_counter()
    stream = {"rankclip_jax": _ours, "webdataset": _theirs}[case["loader"]](case, files, pairs)
    next(stream)
    told = {"pairs": len(pairs), "seconds_to_first": time.perf_counter() - began}

    def timed() -> dict:
        began = time.perf_counter()
        for _ in range(case["batches"]):
            next(stream)
        return {"seconds": time.perf_counter() - began}

    return {"describe": lambda: told, "time": timed}


def _tokenizer():
    return TOKENIZERS["clip"]((), 0, CONTEXT_LENGTH)


def _ours(case: dict, files: list[str], pairs: WebDataset) -> Iterator:
    options = LoaderOptions(
        batch_size=case["batch"],
        seed=0,
        image_size=case["image_size"],
        augment=make_augment(AUGMENT, case["image_size"]),
        num_threads=case["workers"],
        prefetch=4,
    )
    return Loader(DecodedRecords(pairs), _tokenizer(), options)


def _theirs(case: dict, files: list[str], pairs: WebDataset) -> Iterator:
    options = {"dtype": case["dtype"], "batch": case["batch"], "size": case["image_size"], "workers": case["workers"]}
    return batches(files, tokenize=_tokenizer(), **options)


if __name__ == "__main__":
    serve(answers_of)
