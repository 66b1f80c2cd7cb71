"""Tokenizers: CLIP's byte-level BPE, a small BPE trained on a run's captions, or the tokenizer of imported weights.

The first two clean text like CLIP and return ``SOT ids EOT`` padded with 0. A text that is too long is cut, and its
last token is then EOT. SOT and EOT are the two largest ids. Text towers pool at the largest id or at the first EOT:
this is the same position. The tokenizer of imported weights has its own `SpecialTokens`.
"""

import gzip
import hashlib
import html
import itertools
import json
import re
import string
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

import ftfy
import numpy as np
import tokenizers
from tokenizers import Regex, models, pre_tokenizers, trainers

from rankclip_jax.errors import UserError

VOCABULARY = Path(__file__).resolve().parent / "vocab" / "bpe_simple_vocab_16e6.txt.gz"
VOCABULARY_SHA256 = "924691ac288e54409236115652ad4aa250f48203de50a9e4722a6ecd48d6804a"
CLIP_VOCAB_SIZE = 49_408
FILES = ("tokenizer.json", "tokenizer_config.json")
SOT, EOT = "<start_of_text>", "<end_of_text>"
WORD_END = "</w>"
# Contractions, runs of letters, single digits, runs of other characters; white space is a separator.
WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+"


# A text is cut to this length before it is cleaned: a context of 77 tokens never reaches further, and without a limit a
# file given as a caption would stop a run.
MAX_CHARACTERS = 1 << 15
AMPERSANDS = re.compile(r"&(?:amp;|AMP;|#0*38;|#[xX]0*26;)+")


def clean(text: str) -> str:
    """CLIP's cleaning: repair mojibake, unescape HTML twice, collapse white space, lower case."""
    return clean_spaces(text).lower()


def clean_spaces(text: str) -> str:
    """open_clip's usual cleaning for tokenizers of other libraries: CLIP's without lower case."""
    return " ".join(html.unescape(html.unescape(ftfy.fix_text(_flat(text)))).split())


def _flat(text: str) -> str:
    """Nested escapes of an ampersand, as in ``&amp;amp;amp;``, become one, where ftfy would remove them one by one.

    ftfy unescapes the lines before the first "<". It reads the whole text again for each level, in quadratic time.
    """
    bracket = text.find("<")
    end = len(text) if bracket < 0 else text.rfind("\n", 0, bracket) + 1
    return AMPERSANDS.sub("&amp;", text[:end]) + text[end:]


def canonical(text: str) -> str:
    """SigLIP's cleaning: lower case, remove ASCII punctuation, collapse white space."""
    return " ".join(text.lower().translate(str.maketrans("", "", string.punctuation)).split())


CLEANINGS: Mapping[str, Callable[[str], str]] = {
    "clip": clean,
    "canonical": canonical,
    "whitespace": clean_spaces,
    "open_clip_canonical": lambda text: canonical(clean_spaces(text).replace("_", " ")),
    "lower": str.lower,  # SigLIP 2
    "none": lambda text: text,
}


@dataclass(frozen=True)
class SpecialTokens:
    """Special tokens around the ids of a text, and the cleaning before tokenization.

    Attributes:
      before, after: ids before and after each text; the last id of `after` is the end-of-text token.
      pad: id that fills the rest of the row.
      cleaning: a key of `CLEANINGS`.
    """

    before: tuple[int, ...]
    after: tuple[int, ...]
    pad: int = 0
    cleaning: str = "clip"


class Tokenizer:
    """Turns texts into fixed-length rows of ids, the input of the text tower.

    Attributes:
      context_length: ids per text, including special tokens.
      vocab_size: the largest id plus 1; the number of rows of the text tower's embedding table.
      is_foreign: whether the tokenizer belongs to imported weights and has its own special tokens, `special`.
      eot_id: id of the end-of-text token; ``vocab_size - 1`` unless `is_foreign`.
    """

    def __init__(self, bpe: tokenizers.Tokenizer, context_length: int, special: SpecialTokens | None = None):
        if context_length < 3:
            raise UserError(f"context_length is {context_length}; it must be at least 3.")
        self._bpe = bpe
        self.context_length = context_length
        # The ids of other libraries may have gaps.
        self.vocab_size = 1 + max(bpe.get_vocab().values()) if special else bpe.get_vocab_size()
        self.is_foreign = special is not None
        self.special = special or self._own_special_tokens()
        self.eot_id = self.special.after[-1]

    def _own_special_tokens(self) -> SpecialTokens:
        sot, eot = self._bpe.token_to_id(SOT), self._bpe.token_to_id(EOT)
        if (sot, eot) != (self.vocab_size - 2, self.vocab_size - 1):
            raise UserError(
                f"the tokenizer's last two of {self.vocab_size} ids must be {SOT} and {EOT}; "
                f"found them at {sot} and {eot}."
            )
        return SpecialTokens((sot,), (eot,))

    @property
    def sot_id(self) -> int | None:
        """Id of the start-of-text token, ``vocab_size - 2`` unless `is_foreign`; None if texts have no such token."""
        return self.special.before[0] if self.special.before else None

    @property
    def is_clip_vocabulary(self) -> bool:
        """Whether this is CLIP's tokenizer."""
        return self.vocabulary == clip_tokenizer(self.context_length).vocabulary

    @property
    def vocabulary(self) -> str:
        """Digest of everything that determines ids. Token embeddings are valid for one digest only."""
        model = json.loads(self._bpe.to_str())["model"]
        parts = {"model": model, "added": self._bpe.get_vocab(), "special_tokens": asdict(self.special)}
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def __call__(self, texts: str | Sequence[str]) -> np.ndarray:
        """Tokenize N texts, or one text (N = 1), to int32 [N, context_length]; texts that are too long are cut."""
        rows = self._ids([texts] if isinstance(texts, str) else texts)
        before, after = self.special.before, self.special.after
        tokens = np.full((len(rows), self.context_length), self.special.pad, np.int32)
        for row, ids in zip(tokens, rows, strict=True):
            ids = [*before, *ids[: self._room], *after]
            row[: len(ids)] = ids
        return tokens

    def decode(self, ids: Iterable[int]) -> str:
        """Return the cleaned text of one row of ids, up to the first EOT and without SOT."""
        ids = np.asarray(ids).tolist()
        if self.is_foreign:
            return self._bpe.decode(ids[len(self.special.before) : ids.index(self.eot_id)])
        kept = [i for i in itertools.takewhile(lambda i: i != self.eot_id, ids) if i != self.sot_id]
        # In both vocabularies a character stands for a byte. The end of a word becomes the byte of a space.
        characters = "".join(map(self._bpe.id_to_token, kept)).replace(WORD_END, _byte_characters()[ord(" ")])
        values = {character: value for value, character in enumerate(_byte_characters())}
        return bytes(values[c] for c in characters).decode("utf-8", errors="replace").strip()

    def lengths(self, texts: Sequence[str]) -> np.ndarray:
        """Return int64 [N]: the number of tokens of each text before cutting, including special tokens."""
        around = self.context_length - self._room
        return np.array([len(ids) + around for ids in self._ids(texts)], np.int64)

    @property
    def _room(self) -> int:
        """Largest number of ids of a text without special tokens."""
        return self.context_length - len(self.special.before) - len(self.special.after)

    def texts(self) -> dict[str, str]:
        """Return the contents of the files that `save` writes, by name."""
        settings = {"context_length": self.context_length, "vocab_size": self.vocab_size}
        settings |= {"special_tokens": asdict(self.special)} if self.is_foreign else {}
        return {FILES[0]: self._bpe.to_str(), FILES[1]: json.dumps(settings, indent=2) + "\n"}

    @classmethod
    def of_texts(cls, texts: Mapping[str, str], where: str) -> "Tokenizer":
        """Return the tokenizer with these `texts`; `UserError` if one is damaged, with `where` it was found."""
        try:
            settings = json.loads(texts[FILES[1]])
            special = None
            if (saved := settings.get("special_tokens")) is not None:
                special = SpecialTokens(tuple(saved["before"]), tuple(saved["after"]), saved["pad"], saved["cleaning"])
            return cls(tokenizers.Tokenizer.from_str(texts[FILES[0]]), settings["context_length"], special)
        except Exception as error:  # tokenizers raises bare Exception on damaged JSON
            raise UserError(f"cannot read the tokenizer in {where} ({error}); restore it.") from error

    def save(self, folder: str | Path) -> None:
        """Write ``tokenizer.json`` and ``tokenizer_config.json`` into `folder`, made if missing. Not atomic."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in self.texts().items():
            (folder / name).write_text(text, encoding="utf-8")

    def with_context(self, context_length: int) -> "Tokenizer":
        """Return this tokenizer with another context length."""
        return Tokenizer(self._bpe, context_length, self.special if self.is_foreign else None)

    def describe(self) -> str:
        """Return the JSON description of the tokenizer in the format of the `tokenizers` library."""
        return self._bpe.to_str()

    def _ids(self, texts: Sequence[str]) -> list[list[int]]:
        cleaned = [CLEANINGS[self.special.cleaning](text[:MAX_CHARACTERS]) for text in texts]
        return [encoding.ids for encoding in self._bpe.encode_batch(cleaned, add_special_tokens=False)]


def clip_tokenizer(context_length: int = 77) -> Tokenizer:
    """Return CLIP's tokenizer: 49,408 ids, equal to open_clip's with one exception.

    If a caption has the literal text ``<start_of_text>`` or ``<end_of_text>``, it is ordinary text here. open_clip
    turns it into the special token, which ends the caption early.
    """
    return Tokenizer(tokenizers.Tokenizer.from_str(_clip_bpe()), context_length)


def train_tokenizer(captions: Iterable[str], vocab_size: int, context_length: int) -> Tokenizer:
    """Train a byte-level BPE on cleaned captions. The same captions, in any order, result in the same tokenizer.

    Args:
      captions: texts.
      vocab_size: largest number of ids, including SOT and EOT; few captions may result in fewer.
      context_length: ids per text.

    Raises:
      UserError: `vocab_size` is less than 258: the 256 bytes, SOT and EOT.
    """
    if vocab_size < 258:
        raise UserError(f"vocab_size is {vocab_size}; a byte-level tokenizer needs at least 258.")
    bpe = tokenizers.Tokenizer(models.BPE())
    # A leading space marks the start of a word. With an end-of-word suffix instead, the trainer would assign ids to
    # letters in an order that varies from run to run.
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True, use_regex=True)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - 2,
        min_frequency=2,
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    bpe.train_from_iterator((clean(caption) for caption in captions), trainer)
    description = json.loads(bpe.to_str())
    vocabulary = description["model"]["vocab"]
    vocabulary |= {SOT: len(vocabulary), EOT: len(vocabulary) + 1}
    return Tokenizer(tokenizers.Tokenizer.from_str(json.dumps(description)), context_length)


# name -> (captions, vocab_size, context_length) -> Tokenizer
TOKENIZERS: dict[str, Callable[[Iterable[str], int, int], Tokenizer]] = {
    "clip": lambda captions, vocab_size, context_length: clip_tokenizer(context_length),
    "bpe": train_tokenizer,
}


@cache
def _byte_characters() -> tuple[str, ...]:
    """Return GPT-2's printable character for each byte: itself if Latin-1 can print it, else chr(256 + counter)."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    hidden = iter(range(256, 512))
    return tuple(chr(byte) if byte in printable else chr(next(hidden)) for byte in range(256))


@cache
def _clip_bpe() -> str:
    """Return CLIP's BPE in the format of the `tokenizers` library, made from CLIP's released vocabulary file."""
    packed = VOCABULARY.read_bytes()
    if hashlib.sha256(packed).hexdigest() != VOCABULARY_SHA256:
        raise UserError(f"{VOCABULARY} is damaged; restore it from the repository.")
    # Line 0 is a header. CLIP uses only as many merges as result in 49,408 ids.
    lines = gzip.decompress(packed).decode("utf-8").split("\n")[1 : CLIP_VOCAB_SIZE - 2 * 256 - 2 + 1]
    merges = [tuple(line.split()) for line in lines]
    letters = sorted(_byte_characters())  # ids are in the order of the characters, not of the bytes
    tokens = [*letters, *(letter + WORD_END for letter in letters), *map("".join, merges), SOT, EOT]
    vocabulary = {token: token_id for token_id, token in enumerate(tokens)}
    bpe = tokenizers.Tokenizer(models.BPE(vocabulary, merges, end_of_word_suffix=WORD_END))
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    return bpe.to_str()
