"""EDA: how each operation changes the words, how often it is drawn, and what it requires."""

import sys
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest

from rankclip_jax.data.text import augment as text_augment
from rankclip_jax.data.text import wordnet
from rankclip_jax.data.text.augment import OPERATIONS, eda, make_text_augment
from rankclip_jax.data.text.words import STOP_WORDS, letters
from rankclip_jax.errors import UserError

CAPTION = "A large brown dog runs over the old, old stones of a field"
WORDS = ["a", "large", "brown", "dog", "runs", "over", "the", "old", "old", "stones", "of", "a", "field"]
SYNONYMS = {"dog": ("hot dog", "hound"), "large": ("big",), "old": ("aged",), "the": ("never",), "field": ("meadow",)}
REPLACE, INSERT, SWAP, DELETE = OPERATIONS


@pytest.fixture(autouse=True)
def synonyms(monkeypatch):
    monkeypatch.setattr(wordnet, "synonyms_of", lambda word: SYNONYMS.get(word, ()))


def results(operation, words=WORDS, alpha=0.1, rounds=300):
    rng = np.random.default_rng(0)
    found = [operation(list(words), alpha, rng) for _ in range(rounds)]
    assert all(word for result in found for word in result)
    return found


def test_letters_are_lower_case_words():
    assert letters("  The Dog's  bowl-\tRED,\nno. 7 — é! ") == "the dogs bowl red no"
    assert letters("42 !") == ""


def test_replacement_replaces_n_different_words_everywhere():
    for alpha, count in ((0.1, 1), (0.2, 2), (1.0, 4)):
        for words in results(REPLACE, alpha=alpha):
            replaced = [old for old in ("dog", "large", "old", "field") if old not in words]
            assert len(replaced) == count and "the" in words and "never" not in words
            assert ("old" in replaced) == (words.count("aged") == 2)
    assert {word for words in results(REPLACE) for word in words} > {"hot dog", "hound", "big", "aged", "meadow"}
    assert results(REPLACE, ["of", "the", "brown"]) == [["of", "the", "brown"]] * 300


def test_insertion_adds_synonyms_and_keeps_the_rest_in_order():
    for alpha, count in ((0.1, 1), (0.25, 3)):
        added = []
        for words in results(INSERT, alpha=alpha):
            new = Counter(words) - Counter(WORDS)
            added.append(sum(new.values()))
            assert added[-1] == len(words) - len(WORDS) <= count
            assert set(new) <= {"hot dog", "hound", "big", "aged", "meadow", "never"}
            assert [word for word in words if word not in new] == WORDS
        assert np.mean(added) > 0.99 * count  # all ten draws may be words without synonyms
    assert results(INSERT, ["brown"]) == [["brown"]] * 300


def test_a_swap_exchanges_two_positions():
    for words in results(SWAP):
        assert Counter(words) == Counter(WORDS) and len(words) == len(WORDS)
        assert sum(new != old for new, old in zip(words, WORDS, strict=True)) in (0, 2)  # 0: two equal words
    assert results(SWAP, ["one"]) == [["one"]] * 300
    assert any(sum(new != old for new, old in zip(words, WORDS, strict=True)) > 2 for words in results(SWAP, alpha=0.3))


def test_deletion_has_the_given_probability_and_keeps_a_word():
    kept = results(DELETE, alpha=0.3, rounds=2000)
    for words in kept:
        walk = iter(WORDS)
        assert all(word in walk for word in words)  # a subsequence
    assert np.mean([len(words) for words in kept]) == pytest.approx(0.7 * len(WORDS), rel=0.02)
    alone = results(DELETE, ["left", "right"], alpha=1.0)
    assert {tuple(words) for words in alone} == {("left",), ("right",)}


def test_the_four_operations_are_equally_likely(monkeypatch):
    calls = Counter()
    names = ("replace", "insert", "swap", "delete")
    spies = tuple(lambda words, alpha, rng, name=name: calls.update([name]) or words for name in names)
    monkeypatch.setattr(text_augment, "OPERATIONS", spies)
    monkeypatch.setattr(text_augment, "WITHOUT_SYNONYMS", spies[2:])
    rng = np.random.default_rng(0)
    for _ in range(2000):
        assert eda(CAPTION, rng) == " ".join(WORDS)
    assert set(calls) == set(names) and max(abs(count - 500) for count in calls.values()) < 80
    calls.clear()
    for _ in range(200):
        eda(CAPTION, rng, synonyms=0)
    assert set(calls) == {"swap", "delete"}


def test_a_pipeline_is_deterministic_and_ignores_captions_without_letters():
    augment = make_text_augment("eda(alpha=0.2)")
    found = [augment(CAPTION, np.random.default_rng(seed)) for seed in range(20)]
    assert found == [augment(CAPTION, np.random.default_rng(seed)) for seed in range(20)] and len(set(found)) > 10
    for empty in ("", "  ", "42", "狐狸"):
        assert augment(empty, np.random.default_rng(0)) == empty
    assert make_text_augment("none") is None and make_text_augment("") is None


def test_stop_words_are_lower_case_words():
    assert {"a", "the", "of", "with", "and", "yourselves"} <= STOP_WORDS and "dog" not in STOP_WORDS
    assert 100 < len(STOP_WORDS) == len({letters(word) for word in STOP_WORDS})


@pytest.mark.parametrize(
    ("pipeline", "message"),
    [
        ("ada", "unknown text augmentation 'ada'. Did you mean 'eda'"),
        ("eda(beta=1)", "unknown option of text augmentation eda 'beta'"),
        ("eda(alpha=2)", "alpha is a fraction of the words, from 0 to 1"),
        ("eda(0.1)", "cannot read text augmentation"),
    ],
)
def test_mistakes_are_named(pipeline, message):
    with pytest.raises(UserError) as caught:
        make_text_augment(pipeline)
    assert message in str(caught.value)


def test_a_missing_dependency_is_named_at_the_start(monkeypatch):
    monkeypatch.undo()
    wordnet.synonyms_of.cache_clear()
    monkeypatch.setitem(sys.modules, "nltk", None)
    monkeypatch.setitem(sys.modules, "nltk.corpus", None)
    with pytest.raises(UserError, match=r"pip install -e '\.\[text\]', or use eda\(synonyms=0\)"):
        make_text_augment("eda")
    make_text_augment("eda(synonyms=0)")

    def missing():
        raise LookupError("Resource wordnet not found")

    corpus = SimpleNamespace(wordnet=SimpleNamespace(ensure_loaded=missing))
    monkeypatch.setitem(sys.modules, "nltk", SimpleNamespace(corpus=corpus))
    monkeypatch.setitem(sys.modules, "nltk.corpus", corpus)
    with pytest.raises(UserError, match="python -m nltk"):
        make_text_augment("eda")


def test_synonyms_are_other_lemmas_as_letters(monkeypatch):
    monkeypatch.undo()
    wordnet.synonyms_of.cache_clear()
    senses = [["dog", "domestic_dog", "Canis_familiaris"], ["frank", "hot_dog", "Dog"]]
    found = [SimpleNamespace(lemma_names=lambda lemmas=lemmas: lemmas) for lemmas in senses]
    monkeypatch.setattr(wordnet, "_wordnet", lambda: SimpleNamespace(synsets=lambda word: found))
    assert wordnet.synonyms_of("dog") == ("canis familiaris", "domestic dog", "frank", "hot dog")
    wordnet.synonyms_of.cache_clear()
