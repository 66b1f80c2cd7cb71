"""The two operations of EDA that need synonyms. NLTK reads them from WordNet.

NLTK is an optional dependency: `errors.install_hint("text")`, then `python -m nltk.downloader wordnet`.
"""

import threading
from functools import lru_cache

import numpy as np

from rankclip_jax.data.text.words import STOP_WORDS, Words, change_count, letters
from rankclip_jax.errors import UserError, install_hint

CACHED_WORDS = 65_536
TRIES = 10  # draws of a word until one has synonyms
_READING = threading.Lock()  # NLTK's reader seeks in files, which all threads share


def replace_by_synonyms(words: Words, alpha: float, rng: np.random.Generator) -> Words:
    """Replace `change_count` different words by synonyms, wherever they occur."""
    candidates = sorted(set(words) - STOP_WORDS)
    left = change_count(words, alpha)
    for i in rng.permutation(len(candidates)):
        found = synonyms_of(candidates[i])
        if found and left:
            new, left = found[rng.integers(len(found))], left - 1
            words = [new if word == candidates[i] else word for word in words]
    return words


def insert_synonyms(words: Words, alpha: float, rng: np.random.Generator) -> Words:
    """Insert synonyms of `change_count` random words at random positions."""
    words = list(words)
    for _ in range(change_count(words, alpha)):
        for _ in range(TRIES):
            found = synonyms_of(words[rng.integers(len(words))])
            if found:
                words.insert(int(rng.integers(len(words))), found[rng.integers(len(found))])
                break
    return words


@lru_cache(CACHED_WORDS)
def synonyms_of(word: str) -> tuple[str, ...]:
    """Return all other lemmas of all senses of `word` in WordNet, as lower-case letters and spaces, sorted."""
    with _READING:
        lemmas = [lemma for sense in _wordnet().synsets(word) for lemma in sense.lemma_names()]
    return tuple(sorted({letters(lemma.replace("_", " ")) for lemma in lemmas} - {word, ""}))


def _wordnet():
    """Return NLTK's WordNet reader; `UserError` if NLTK or its WordNet data are not installed."""
    instead = "or use eda(synonyms=0), which needs no synonyms"
    try:
        from nltk.corpus import wordnet
    except ImportError:
        raise UserError(f"eda needs NLTK for synonyms: {install_hint('text')}, {instead}.") from None
    try:
        wordnet.ensure_loaded()
    except (LookupError, OSError):
        raise UserError(f"eda needs NLTK's WordNet: python -m nltk.downloader wordnet, {instead}.") from None
    return wordnet
