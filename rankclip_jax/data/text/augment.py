"""Random changes of training captions: EDA, as CyCLIP contrasts captions with (its section on in-modal views).

    EDA: Easy Data Augmentation Techniques ... (Wei and Zou 2019, arXiv 1901.11196)

A caption is reduced to lower-case letters and spaces, and one of four operations is drawn, with equal probability:
synonym replacement, random insertion (of a synonym), random swap, random deletion. Unlike CyCLIP's released code,
which draws once when its table is read, every visit draws anew.

Synonyms come from WordNet through NLTK (`pip install rankclip_jax[text]`, then `python -m nltk.downloader wordnet`).
`eda(synonyms=0)` does without: it draws from swap and deletion.
"""

import re
import threading
from collections.abc import Callable
from functools import lru_cache

import numpy as np

from rankclip_jax.data.pipeline_spec import parse_steps
from rankclip_jax.errors import UserError

TextAugment = Callable[[str, np.random.Generator], str]
CACHED_WORDS = 65_536
TRIES = 10  # of a word that has synonyms

# Words that carry grammar, not content: they are not replaced.
STOP_WORDS = frozenset(
    re.findall(
        r"\w+",
        """
    a about above after again against all am an and any are as at be because been before being below
    between both but by can could did do does doing down during each few for from further had has have
    having he her here hers herself him himself his how i if in into is it its itself just me more most
    my myself no nor not now of off on once only or other our ours ourselves out over own same she
    should so some such than that the their theirs them themselves then there these they this those
    through to too under until up very was we were what when where which while who whom why will with
    would you your yours yourself yourselves
""",
    )
)
Words = list[str]


def eda(caption: str, rng: np.random.Generator, *, alpha: float = 0.1, synonyms: float = 1) -> str:
    """Change a caption by one of EDA's operations.

    Args:
      caption: any text.
      rng: source of the draw.
      alpha: share of the words that is replaced, inserted or swapped (at least one), or the probability of
        each word to be deleted.
      synonyms: 0 leaves out the two operations that need WordNet.

    Returns:
      Words joined by spaces; the caption itself if there are no letters in it.
    """
    words = letters(caption).split()
    if not words:
        return caption
    operations = OPERATIONS if synonyms else WITHOUT_SYNONYMS
    changed = operations[rng.integers(len(operations))](words, alpha, rng)
    return " ".join(changed)


def letters(text: str) -> str:
    """Lower-case a to z and single spaces: hyphens and white space separate words, all else is dropped."""
    spaced = re.sub(r"[-\s]+", " ", text.lower())
    return re.sub(r" +", " ", re.sub(r"[^a-z ]", "", spaced)).strip()


def _count(words: Words, alpha: float) -> int:
    return max(1, int(alpha * len(words)))


def _replace(words: Words, alpha: float, rng: np.random.Generator) -> Words:
    """Replace so many different words, wherever they stand, by synonyms."""
    candidates = sorted(set(words) - STOP_WORDS)
    left = _count(words, alpha)
    for i in rng.permutation(len(candidates)):
        found = synonyms_of(candidates[i])
        if found and left:
            new, left = found[rng.integers(len(found))], left - 1
            words = [new if word == candidates[i] else word for word in words]
    return words


def _insert(words: Words, alpha: float, rng: np.random.Generator) -> Words:
    """Insert synonyms of random words at random places."""
    words = list(words)
    for _ in range(_count(words, alpha)):
        for _ in range(TRIES):
            found = synonyms_of(words[rng.integers(len(words))])
            if found:
                words.insert(int(rng.integers(len(words))), found[rng.integers(len(found))])
                break
    return words


def _swap(words: Words, alpha: float, rng: np.random.Generator) -> Words:
    """Swap two random places, so many times."""
    words = list(words)
    for _ in range(_count(words, alpha) if len(words) > 1 else 0):
        i, j = rng.choice(len(words), 2, replace=False)
        words[i], words[j] = words[j], words[i]
    return words


def _delete(words: Words, alpha: float, rng: np.random.Generator) -> Words:
    """Delete each word with probability `alpha`; one is always left."""
    kept = [word for word, draw in zip(words, rng.random(len(words)), strict=True) if draw >= alpha]
    return kept or [words[rng.integers(len(words))]]


WITHOUT_SYNONYMS = (_swap, _delete)
OPERATIONS = (_replace, _insert, *WITHOUT_SYNONYMS)

_READING = threading.Lock()  # NLTK's reader seeks in files that all threads share


@lru_cache(CACHED_WORDS)
def synonyms_of(word: str) -> tuple[str, ...]:
    """Every other lemma of every sense of `word` in WordNet, as letters and spaces, sorted."""
    with _READING:
        names = {
            letters(lemma.replace("_", " ")) for synset in _wordnet().synsets(word) for lemma in synset.lemma_names()
        }
    return tuple(sorted(names - {word, ""}))


def _wordnet():
    """NLTK's reader of WordNet.

    Raises:
      UserError: the package or the data are not there.
    """
    instead = "or do without synonyms: eda(synonyms=0)"
    try:
        from nltk.corpus import wordnet
    except ImportError:
        raise UserError(f"eda needs NLTK for synonyms: pip install rankclip_jax[text], {instead}.") from None
    try:
        wordnet.ensure_loaded()
    except (LookupError, OSError):
        raise UserError(f"eda needs NLTK's WordNet: python -m nltk.downloader wordnet, {instead}.") from None
    return wordnet


TEXT_AUGMENTATIONS: dict[str, Callable[..., str]] = {"eda": eda}


def make_text_augment(pipeline: str) -> TextAugment | None:
    """Compile ``"name|name(option=number)|..."`` into one function; None for ``""`` and ``"none"``.

    Raises:
      UserError: a step or option is unknown, the text cannot be read, or what a step needs is not installed.
    """
    steps = parse_steps(pipeline, TEXT_AUGMENTATIONS, "text augmentation")
    if not steps:
        return None
    for step in steps:
        alpha = step.keywords.get("alpha", 0.1)
        if not 0 <= alpha <= 1:
            raise UserError(f"eda(alpha={alpha:g}): alpha is a share of the words, from 0 to 1.")
        if step.keywords.get("synonyms", 1):
            synonyms_of("image")  # here, rather than as a bad record

    def augment(caption: str, rng: np.random.Generator) -> str:
        for step in steps:
            caption = step(caption, rng)
        return caption

    return augment
