"""The metrics of an evaluation, from embeddings; compared with the straightforward computation on the whole matrix.

    python -m rankclip_jax.benchmark evaluate [--images=1000,5000] [--captions_per_image=5] [--json=FILE]

The embeddings are random, and each image agrees with its captions. Images have labels, for NDCG and zero-shot
classification. The cases of one size take turns in separate processes: each group of metrics alone, all groups
together, and all groups computed by dense NumPy (`dense_metrics`). Sizes with more than `--dense_up_to` scores have no
dense case, which needs memory for about eight matrices of them.
"""

import numpy as np
from absl import flags

from rankclip_jax.benchmark.case import Benchmark, Case, Row
from rankclip_jax.data.records import Classes, EvalSplit
from rankclip_jax.errors import UserError
from rankclip_jax.evals.embeddings import SplitEmbeddings
from rankclip_jax.evals.registry import EVALS, GRADED_BY
from rankclip_jax.evals.split import evaluate_embeddings

ALL, OURS, DENSE = "all", "rankclip_jax", "dense numpy"


def define_flags() -> None:
    flags.DEFINE_list("images", ["1000", "5000"], "numbers of images")
    flags.DEFINE_integer("captions_per_image", 5, "captions of each image", lower_bound=1)
    flags.DEFINE_integer("classes", 100, "number of labels", lower_bound=2)
    flags.DEFINE_integer("dim", 512, "embedding size", lower_bound=1)
    flags.DEFINE_integer("dense_up_to", 2**25, "largest number of scores for the dense computation", lower_bound=0)


def groups(chosen: flags.FlagValues) -> list[list[Row]]:
    """Return one group for each number of images."""
    wrong = [text for text in chosen.images if not text.isdigit() or int(text) < 1]
    if wrong or not chosen.images:
        raise UserError(f"--images={','.join(chosen.images)}: expected positive whole numbers, such as 1000,5000.")
    return [_cases(chosen, int(images)) for images in chosen.images]


def _cases(chosen: flags.FlagValues, images: int) -> list[Row]:
    shared = {"images": images, "captions": images * chosen.captions_per_image}
    shared |= {"classes": chosen.classes, "dim": chosen.dim}
    named = [(ALL, OURS), *((name, OURS) for name in EVALS)]
    if images * shared["captions"] <= chosen.dense_up_to:
        named.append((ALL, DENSE))
    return [{"metrics": name, "computed_by": by, **shared} for name, by in named]


def build(case: Row) -> Case:
    """Draw the embeddings; a run computes the metrics."""
    embeds, split = random_split(case["images"], case["captions"], case["classes"], case["dim"])
    if case["computed_by"] == DENSE:
        from rankclip_jax.benchmark.dense_metrics import dense_metrics  # imports scipy.stats

        return Case(lambda: dense_metrics(embeds, split), case)
    names = tuple(EVALS) if case["metrics"] == ALL else (case["metrics"],)
    # `SplitEmbeddings` keeps its scores: each run needs its own.
    return Case(lambda: evaluate_embeddings(SplitEmbeddings(*embeds), split, names), case)


def random_split(
    n_images: int, n_captions: int, n_classes: int, dim: int
) -> tuple[tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]], EvalSplit]:
    """Return float32 embeddings of images, captions and classes, and their split; caption m belongs to image m % N."""
    rng = np.random.default_rng(0)
    image_ids, text_ids = np.arange(n_images), np.arange(n_captions) % n_images
    labels = rng.integers(0, n_classes, n_images)
    classes = rng.standard_normal((n_classes, dim), np.float32)
    concepts = classes[labels] + rng.standard_normal((n_images, dim), np.float32)
    images = concepts + rng.standard_normal((n_images, dim), np.float32)
    captions = concepts[text_ids] + 3 * rng.standard_normal((n_captions, dim), np.float32)
    labelling = Classes(tuple(map(str, range(n_classes))), labels, labels[text_ids], ("{}",))
    pixels = np.broadcast_to(np.uint8(0), (n_images, 1, 1, 3))
    split = EvalSplit("random", pixels, image_ids, ("",) * n_captions, text_ids, {GRADED_BY: labelling})
    return (_unit(images), _unit(captions), {GRADED_BY: _unit(classes)}), split


def _unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=1, keepdims=True)


BENCHMARK = Benchmark(
    "metrics of an evaluation",
    labels=("metrics", "computed_by", "images", "captions"),
    about=("classes", "dim"),
    define_flags=define_flags,
    groups=groups,
    build=build,
    memory=True,
    rounds=1,
    min_rounds=0,
)
