"""Text to token ids: CLIP's byte-level BPE, a small one trained on a run's own captions, or one of another model.

The first two clean text as CLIP does, frame it as ``SOT ids EOT``, pad with 0, and cut over-long text so
that the last token is EOT. SOT and EOT are the two largest ids in both, so that pooling at the
largest id and pooling at the first EOT are the same position. The tokenizer of another model, which came with
imported weights, has a `SpecialTokens` of its own.
"""

import gzip
import hashlib
import html
import json
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
SOT, EOT = "<start_of_text>", "<end_of_text>"
WORD_END = "</w>"
# Contractions, runs of letters, single digits, runs of anything else; white space only separates.
WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+"


def clean(text: str) -> str:
    """CLIP's cleaning: mend mojibake, unescape HTML twice, collapse white space, lower case."""
    text = html.unescape(html.unescape(ftfy.fix_text(text)))
    return " ".join(text.split()).lower()


def canonical(text: str) -> str:
    """SigLIP's cleaning: lower case, no ASCII punctuation, white space collapsed."""
    return " ".join(text.lower().translate(str.maketrans("", "", string.punctuation)).split())


# What is done to a text before it is cut into tokens.
CLEANINGS: Mapping[str, Callable[[str], str]] = {
    "clip": clean,
    "canonical": canonical,
    "lower": str.lower,  # SigLIP 2's
    "none": lambda text: text,
}


@dataclass(frozen=True)
class SpecialTokens:
    """What a tokenizer puts around the ids of a text, and does before.

    Attributes:
      before, after: ids put around each text; the last of `after` is the end-of-text.
      pad: id that fills the rest.
      cleaning: a key of `CLEANINGS`.
    """

    before: tuple[int, ...]
    after: tuple[int, ...]
    pad: int = 0
    cleaning: str = "clip"


class Tokenizer:
    """Turns captions into fixed-length rows of ids, ready for the text tower.

    Attributes:
      context_length: ids per text, SOT and EOT included.
      vocab_size: number of ids; the text tower's embedding needs as many rows.
      frame: ``SOT ids EOT`` and zeros, or that of another model.
      eot_id: the end-of-text token; ``vocab_size - 1`` but in tokenizers of other models.
    """

    def __init__(self, bpe: tokenizers.Tokenizer, context_length: int, frame: SpecialTokens | None = None):
        if context_length < 3:
            raise UserError(f"context_length is {context_length}; it must be at least 3.")
        self._bpe = bpe
        self.context_length = context_length
        self.vocab_size = bpe.get_vocab_size()
        self.is_foreign = frame is not None
        self.frame = frame or self._own_frame()
        self.eot_id = self.frame.after[-1]

    def _own_frame(self) -> SpecialTokens:
        sot, eot = self._bpe.token_to_id(SOT), self._bpe.token_to_id(EOT)
        if (sot, eot) != (self.vocab_size - 2, self.vocab_size - 1):
            raise UserError(
                f"the tokenizer's last two of {self.vocab_size} ids must be {SOT} and {EOT}; "
                f"found them at {sot} and {eot}."
            )
        return SpecialTokens((sot,), (eot,))

    @property
    def sot_id(self) -> int | None:
        """The start-of-text token: ``vocab_size - 2``; of another model's whatever comes first, if anything does."""
        return self.frame.before[0] if self.frame.before else None

    @property
    def is_clip_vocabulary(self) -> bool:
        """Whether this is CLIP's own tokenizer."""
        return self.vocabulary == clip_tokenizer(self.context_length).vocabulary

    @property
    def vocabulary(self) -> str:
        """Digest of all that decides ids: embeddings of tokens trained with one are of no use with another."""
        model = json.loads(self._bpe.to_str())["model"]
        decides = {"model": model, "added": self._bpe.get_vocab(), "frame": asdict(self.frame)}
        return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()

    def __call__(self, texts: str | Sequence[str]) -> np.ndarray:
        """Tokenize N texts, or one.

        Returns:
          int32 [N, context_length].
        """
        rows = self._ids([texts] if isinstance(texts, str) else texts)
        before, after = self.frame.before, self.frame.after
        tokens = np.full((len(rows), self.context_length), self.frame.pad, np.int32)
        for row, ids in zip(tokens, rows, strict=True):
            ids = [*before, *ids[: self._room], *after]
            row[: len(ids)] = ids
        return tokens

    def decode(self, ids: Iterable[int]) -> str:
        """Cleaned text of one row of ids: up to the first EOT, without SOT."""
        if self.is_foreign:
            ids = np.asarray(ids).tolist()
            return self._bpe.decode(ids[len(self.frame.before) : ids.index(self.eot_id)])
        pieces = []
        for token_id in np.asarray(ids).tolist():
            if token_id == self.eot_id:
                break
            if token_id != self.sot_id:
                pieces.append(self._bpe.id_to_token(token_id))
        # Both alphabets map a byte to a character; a word's end is the byte of a space.
        characters = "".join(pieces).replace(WORD_END, _byte_characters()[ord(" ")])
        values = {character: value for value, character in enumerate(_byte_characters())}
        return bytes(values[c] for c in characters).decode("utf-8", errors="replace").strip()

    def truncated(self, texts: Sequence[str]) -> int:
        """How many of the texts are longer than the context and would be cut."""
        return int((self.lengths(texts) > self.context_length).sum())

    def lengths(self, texts: Sequence[str]) -> np.ndarray:
        """int [N], tokens of each text, those of its frame included, before anything is cut."""
        framed = len(self.frame.before) + len(self.frame.after)
        return np.array([len(ids) + framed for ids in self._ids(texts)], np.int64)

    @property
    def _room(self) -> int:
        """Ids of a text that fit into the frame."""
        return self.context_length - len(self.frame.before) - len(self.frame.after)

    def save(self, folder: str | Path) -> None:
        """Write ``tokenizer.json`` and ``tokenizer_config.json`` into `folder`, made if missing."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "tokenizer.json").write_text(self._bpe.to_str(), encoding="utf-8")
        settings = {"context_length": self.context_length, "vocab_size": self.vocab_size}
        settings |= {"frame": asdict(self.frame)} if self.is_foreign else {}
        (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: str | Path) -> "Tokenizer":
        """Read what `save` wrote; a missing or damaged file is a `UserError`."""
        folder = Path(folder)
        try:
            settings = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
            text = (folder / "tokenizer.json").read_text(encoding="utf-8")
            context_length = settings["context_length"]
            frame = _frame(settings["frame"]) if "frame" in settings else None
            bpe = tokenizers.Tokenizer.from_str(text)
        except Exception as error:  # tokenizers raises bare Exception on damaged JSON
            raise UserError(f"cannot read the tokenizer in {folder} ({error}); restore it.") from error
        return cls(bpe, context_length, frame)

    def with_context(self, context_length: int) -> "Tokenizer":
        """The same tokens in rows of another length."""
        return Tokenizer(self._bpe, context_length, self.frame if self.is_foreign else None)

    def describe(self) -> str:
        """The tokenizer in the `tokenizers` library's JSON."""
        return self._bpe.to_str()

    def _ids(self, texts: Sequence[str]) -> list[list[int]]:
        cleaned = [CLEANINGS[self.frame.cleaning](text) for text in texts]
        return [encoding.ids for encoding in self._bpe.encode_batch(cleaned, add_special_tokens=False)]


def _frame(saved: Mapping) -> SpecialTokens:
    return SpecialTokens(tuple(saved["before"]), tuple(saved["after"]), saved["pad"], saved["cleaning"])


def clip_tokenizer(context_length: int = 77) -> Tokenizer:
    """CLIP's tokenizer: 49,408 ids, equal to open_clip's for every text but one kind.

    The literal ``<start_of_text>`` or ``<end_of_text>`` in a caption is ordinary text here; open_clip
    turns it into the special id, which ends the caption early.
    """
    return Tokenizer(tokenizers.Tokenizer.from_str(_clip_bpe()), context_length)


def train_tokenizer(captions: Iterable[str], vocab_size: int, context_length: int) -> Tokenizer:
    """Train a byte-level BPE on captions; the same captions give the same tokenizer.

    Args:
      captions: texts; they are cleaned first, and their order does not matter.
      vocab_size: ids to aim for, SOT and EOT included. Few captions may give fewer: ask the result.
      context_length: ids per text.

    Raises:
      UserError: `vocab_size` leaves no room for the 256 bytes, SOT and EOT.
    """
    if vocab_size < 258:
        raise UserError(f"vocab_size is {vocab_size}; a byte-level tokenizer needs at least 258.")
    bpe = tokenizers.Tokenizer(models.BPE())
    # No end-of-word suffix: the trainer would number suffixed letters in an order that varies from
    # run to run. A leading space marks the start of a word instead.
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


def _build_clip(captions: Iterable[str], vocab_size: int, context_length: int) -> Tokenizer:
    del captions, vocab_size  # fixed by CLIP
    return clip_tokenizer(context_length)


# name -> (captions, vocab_size, context_length) -> Tokenizer
TOKENIZERS: dict[str, Callable[[Iterable[str], int, int], Tokenizer]] = {
    "clip": _build_clip,
    "bpe": train_tokenizer,
}


@cache
def _byte_characters() -> tuple[str, ...]:
    """GPT-2's printable stand-in for each byte: itself where Latin-1 prints it, else 256 + counter."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    hidden = iter(range(256, 512))
    return tuple(chr(byte) if byte in printable else chr(next(hidden)) for byte in range(256))


@cache
def _clip_bpe() -> str:
    """`tokenizers` description of CLIP's BPE, from the vocabulary file that CLIP was released with."""
    packed = VOCABULARY.read_bytes()
    if hashlib.sha256(packed).hexdigest() != VOCABULARY_SHA256:
        raise UserError(f"{VOCABULARY} is damaged; restore it from the repository.")
    # Line 0 is a header; CLIP uses as many merges as its 49,408 ids leave room for.
    lines = gzip.decompress(packed).decode("utf-8").split("\n")[1 : CLIP_VOCAB_SIZE - 2 * 256 - 2 + 1]
    merges = [tuple(line.split()) for line in lines]
    letters = sorted(_byte_characters())  # ids follow the characters' order, not the bytes'
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
