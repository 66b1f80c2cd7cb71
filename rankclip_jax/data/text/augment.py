"""Random changes of training captions: EDA, which CyCLIP uses for its second text view.

    EDA: Easy Data Augmentation Techniques for Boosting Performance on Text Classification Tasks
    (Wei and Zou 2019, arXiv 1901.11196)

A caption is reduced to lower-case letters and spaces. One of four operations is drawn with equal probability:
synonym replacement, random insertion of a synonym, random swap, random deletion. The draw is new each time a caption
is used; CyCLIP's released code draws once per caption, when it reads its table.
"""

from collections.abc import Callable

import numpy as np

from rankclip_jax.data.pipeline_spec import defaults_of, parse_pipeline
from rankclip_jax.data.text import wordnet
from rankclip_jax.data.text.words import Words, change_count, letters
from rankclip_jax.errors import UserError

TextAugment = Callable[[str, np.random.Generator], str]


def eda(caption: str, rng: np.random.Generator, *, alpha: float = 0.1, synonyms: float = 1) -> str:
    """Change a caption by one of EDA's operations; a caption without letters is returned unchanged.

    Args:
      alpha: fraction of the words to replace, insert or swap (at least one word); for deletion, the probability
        that a word is deleted.
      synonyms: 0 leaves out the two operations that need WordNet.
    """
    words = letters(caption).split()
    if not words:
        return caption
    operations = OPERATIONS if synonyms else WITHOUT_SYNONYMS
    return " ".join(operations[rng.integers(len(operations))](words, alpha, rng))


def swap(words: Words, alpha: float, rng: np.random.Generator) -> Words:
    """Swap the words at two random positions, `change_count` times."""
    words = list(words)
    for _ in range(change_count(words, alpha) if len(words) > 1 else 0):
        i, j = rng.choice(len(words), 2, replace=False)
        words[i], words[j] = words[j], words[i]
    return words


def delete(words: Words, alpha: float, rng: np.random.Generator) -> Words:
    """Delete each word with probability `alpha`. If none would be left, keep one random word."""
    kept = [word for word, draw in zip(words, rng.random(len(words)), strict=True) if draw >= alpha]
    return kept or [words[rng.integers(len(words))]]


WITHOUT_SYNONYMS = (swap, delete)
OPERATIONS = (wordnet.replace_by_synonyms, wordnet.insert_synonyms, *WITHOUT_SYNONYMS)
TEXT_AUGMENTATIONS: dict[str, Callable[..., str]] = {"eda": eda}


def make_text_augment(pipeline: str) -> TextAugment | None:
    """Compile ``"name|name(option=number)|..."`` into one function; return None for ``""`` and ``"none"``.

    Raises:
      UserError: an augmentation or option is unknown or invalid, the text cannot be parsed, or an optional
        dependency is not installed.
    """
    augmentations = parse_pipeline(pipeline, TEXT_AUGMENTATIONS, "text augmentation")
    if not augmentations:
        return None
    for augmentation in augmentations:
        options = defaults_of(augmentation.func) | augmentation.keywords
        if not 0 <= options["alpha"] <= 1:
            raise UserError(f"eda(alpha={options['alpha']:g}): alpha is a fraction of the words, from 0 to 1.")
        if options["synonyms"]:
            wordnet.synonyms_of("image")  # raises now if a dependency is missing; later it would cause bad records

    def augment(caption: str, rng: np.random.Generator) -> str:
        for augmentation in augmentations:
            caption = augmentation(caption, rng)
        return caption

    return augment
