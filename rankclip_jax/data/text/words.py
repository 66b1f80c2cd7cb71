"""A caption as a list of words, the form in which text augmentations change it."""

import re

Words = list[str]

# Words of grammar, not of content: they are not replaced.
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


def letters(text: str) -> str:
    """Return `text` as lower-case a to z and single spaces, which replace hyphens and white space."""
    spaced = re.sub(r"[-\s]+", " ", text.lower())
    return re.sub(r" +", " ", re.sub(r"[^a-z ]", "", spaced)).strip()


def change_count(words: Words, alpha: float) -> int:
    """Return the number of words to change: the fraction `alpha` of them, rounded down, at least 1."""
    return max(1, int(alpha * len(words)))
