"""Read and write the tokenizers of Hugging Face folders.

Input is ``tokenizer.json``, or ``vocab.json`` and ``merges.txt``, with the special tokens in
``tokenizer_config.json``. CLIP's vocabulary of 49,408 tokens becomes our CLIP tokenizer, which also cleans text; its
last two tokens may have other names. Any other tokenizer is used unchanged.
"""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers

from rankclip_jax.data.text.tokenizer import CLIP_VOCAB_SIZE, EOT, SOT, SpecialTokens, Tokenizer, clip_tokenizer
from rankclip_jax.errors import UserError
from rankclip_jax.weights.formats.tensor_files import read_json
from rankclip_jax.weights.formats.vocabulary import fits

# Names of CLIP's two special tokens in Hugging Face folders.
HF_SOT, HF_EOT = "<|startoftext|>", "<|endoftext|>"
# Padding of exported tokenizers, if the text tower reads it: id 0, with which we pad, is an ordinary token elsewhere.
PAD = "<pad>"
# Cleaning that these classes do in code; their tokenizer.json does not contain it.
CLEANING_OF_CLASS = {
    "SiglipTokenizer": "canonical",
    "T5Tokenizer": "canonical",  # in converted SigLIP models
    "GemmaTokenizer": "lower",  # SigLIP 2
    "Siglip2Tokenizer": "lower",
}
# open_clip's cleaning functions: ours.
OPEN_CLIP_CLEANINGS = {"whitespace": "whitespace", "lower": "clip", "canonicalize": "open_clip_canonical"}
# CLIPTokenizer's own pipeline. For clean texts, it returns the same tokens as ours.
SPLIT = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
SPACES = {"type": "Replace", "pattern": {"Regex": r"\s+"}, "content": " "}


def read_tokenizer(
    folder: Path, context_length: int, vocab_size: int, kind: str, options: Mapping[str, Any] | None = None
) -> Tokenizer:
    """Read the tokenizer of a Hugging Face folder.

    Args:
      context_length: ids per text.
      vocab_size: rows of the model's token embedding; the tokenizer may have fewer ids, as in `vocabulary.fits`.
      kind: "clip", "siglip" or "open_clip"; its conventions apply where the files have no setting.
      options: open_clip's ``tokenizer_kwargs``.

    Raises:
      UserError: no tokenizer can be read, or its vocabulary does not fit `vocab_size`.
    """
    options = _checked_options(options or {}, folder)
    settings = _settings(folder)
    description = _description(folder, kind)
    ours = _is_ours(description)
    if ours:
        description = _as_ours(description)
    found = 1 + max(_vocabulary(description).values(), default=-1)  # there may be ids without a token
    if not fits(vocab_size, found):
        raise UserError(
            f"the tokenizer in {folder} has {found:,} ids, but the model's token embedding has {vocab_size:,} rows: "
            "replace it by the model's own tokenizer."
        )
    if _is_clip(description):
        return clip_tokenizer(context_length)
    try:
        bpe = tokenizers.Tokenizer.from_str(json.dumps(description))
    except Exception as error:  # tokenizers raises bare Exception
        raise UserError(f"cannot read the tokenizer in {folder} ({error}): download it again.") from error
    if ours:
        return Tokenizer(bpe, context_length)
    bpe.no_truncation()
    bpe.no_padding()
    special = _special_tokens(bpe, description, settings, folder, kind)
    if kind == "open_clip":
        special = replace(special, cleaning=OPEN_CLIP_CLEANINGS[options.get("clean", "whitespace")])
        if options.get("strip_sep_token"):  # open_clip replaces the last token by 0
            special = replace(special, after=(*special.after[:-1], 0))
    return Tokenizer(bpe, context_length, special)


def _checked_options(options: Mapping[str, Any], folder: Path) -> Mapping[str, Any]:
    unknown = sorted(set(options) - {"clean", "strip_sep_token"})
    if unknown or options.get("clean", "whitespace") not in OPEN_CLIP_CLEANINGS:
        what = f"{unknown[0]}={options[unknown[0]]!r}" if unknown else f"clean={options['clean']!r}"
        raise UserError(f"{folder}: {what} in tokenizer_kwargs is not supported: use weights with another tokenizer.")
    return options


def _settings(folder: Path) -> dict[str, Any]:
    """``special_tokens_map.json`` updated by ``tokenizer_config.json``; both are optional."""
    found: dict[str, Any] = {}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        if (folder / name).is_file():
            found |= {key: value for key, value in read_json(folder / name).items() if value is not None}
    return found


def _description(folder: Path, kind: str) -> dict[str, Any]:
    """The tokenizer in the JSON format of the `tokenizers` library."""
    if (folder / "tokenizer.json").is_file():
        description = read_json(folder / "tokenizer.json")
        if not isinstance(description.get("model"), dict):
            raise UserError(f"{folder / 'tokenizer.json'} is damaged (it has no model): download it again.")
        return description
    if (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file() and kind != "siglip":
        lines = (folder / "merges.txt").read_text(encoding="utf-8").splitlines()
        merges = [line.split() for line in lines if line and not line.startswith("#version")]
        return clip_pipeline(read_json(folder / "vocab.json"), merges)
    if (folder / "spiece.model").is_file():
        raise UserError(
            f"{folder} has its tokenizer only as spiece.model, which is not supported: write a tokenizer.json with "
            "transformers' save_pretrained."
        )
    raise UserError(f"there is no tokenizer.json in {folder}: download the whole folder, with its tokenizer.")


def _vocabulary(description: Mapping[str, Any]) -> dict[str, int]:
    model = description["model"].get("vocab", {})
    # A Unigram model's vocabulary is a list of (token, score).
    ids = model if isinstance(model, dict) else {token: i for i, (token, _) in enumerate(model)}
    return ids | {token["content"]: token["id"] for token in description.get("added_tokens") or ()}


def _is_clip(description: Mapping[str, Any]) -> bool:
    """Whether ids and merges are CLIP's. If so, the rest of the pipeline is assumed to be CLIP's too."""
    model = description["model"]
    ids = {token: i for token, i in _vocabulary(description).items() if token != PAD}
    if model.get("type", "BPE") != "BPE" or len(ids) != CLIP_VOCAB_SIZE:
        return False
    clip, hf_names = json.loads(clip_tokenizer().describe()), {SOT: HF_SOT, EOT: HF_EOT}
    same_ids = all(ids.get(token, ids.get(hf_names.get(token))) == i for token, i in _vocabulary(clip).items())
    return same_ids and _merges(model) == _merges(clip["model"])


def _is_ours(description: Mapping[str, Any]) -> bool:
    """Whether this package trained it. The file then has steps that our class does in code (`write_tokenizer`)."""
    ids = {token: i for token, i in _vocabulary(description).items() if token != PAD}
    return (ids.get(SOT), ids.get(EOT)) == (len(ids) - 2, len(ids) - 1)


def _as_ours(description: Mapping[str, Any]) -> dict[str, Any]:
    """The description without the steps that our class does in code, and without the token for padding."""
    return {**description, "normalizer": None, "post_processor": None, "added_tokens": []}


def _merges(model: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Merges as pairs. Older files hold "a b", newer ones ["a", "b"]."""
    return [tuple(merge.split(" ")) if isinstance(merge, str) else tuple(merge) for merge in model["merges"]]


def _special_tokens(
    bpe: tokenizers.Tokenizer, description: Mapping[str, Any], settings: Mapping[str, Any], folder: Path, kind: str
) -> SpecialTokens:
    """The ids before and after a text, padding and cleaning, as the files describe them."""
    eos = _token_id(bpe, settings, "eos_token")
    ids, bare = (bpe.encode("a", add_special_tokens=special).ids for special in (True, False))
    start = next((i for i in range(len(ids)) if ids[i : i + len(bare)] == bare), 0)
    before, after = ids[:start], ids[start + len(bare) :]
    if not after and eos is not None:  # no post-processor: use the convention of the kind
        bos = _token_id(bpe, settings, "bos_token")
        before, after = ([bos] if kind != "siglip" and bos is not None else []), [eos]
    if not after:
        raise UserError(f"the tokenizer in {folder} has no end-of-text token: set eos_token in its config.")
    pad = _token_id(bpe, settings, "pad_token")
    name = str(settings.get("tokenizer_class", "")).removesuffix("Fast")
    lowers = "Lowercase" in json.dumps(description.get("normalizer"))
    usual = {"siglip": "none" if lowers else "canonical"}.get(kind, "clip" if lowers else "none")
    cleaning = CLEANING_OF_CLASS.get(name, usual)
    return SpecialTokens(tuple(before), tuple(after), after[-1] if pad is None else pad, cleaning)


def _token_id(bpe: tokenizers.Tokenizer, settings: Mapping[str, Any], role: str) -> int | None:
    token = settings.get(role)
    token = token.get("content") if isinstance(token, Mapping) else token
    return None if token is None else bpe.token_to_id(token)


def clip_pipeline(vocabulary: Mapping[str, int], merges: Any) -> dict[str, Any]:
    """The JSON of the tokenizer that transformers' CLIPTokenizer builds from vocabulary and merges."""
    sot, eot = ((token, vocabulary[token]) for token in _special_names(vocabulary))
    split = {"type": "Split", "pattern": {"Regex": SPLIT}, "behavior": "Removed", "invert": True}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    framing = {"type": "RobertaProcessing", "sep": eot, "cls": sot, "trim_offsets": False, "add_prefix_space": False}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [_added(*one) for one in (sot, eot)],
        "normalizer": {"type": "Sequence", "normalizers": [{"type": "NFC"}, SPACES, {"type": "Lowercase"}]},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, byte_level]},
        "post_processor": framing,
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": eot[0],
            "continuing_subword_prefix": "",
            "end_of_word_suffix": "</w>",
            "fuse_unk": False,
            "byte_fallback": False,
            "vocab": dict(vocabulary),
            "merges": [list(merge) for merge in merges],
        },
    }


def _special_names(vocabulary: Mapping[str, int]) -> tuple[str, str]:
    for names in ((HF_SOT, HF_EOT), (SOT, EOT)):
        if all(name in vocabulary for name in names):
            return names
    raise UserError(f"the tokenizer's vocabulary has no {HF_SOT} and {HF_EOT}: it is not a CLIP tokenizer.")


def write_tokenizer(tokenizer: Tokenizer, folder: Path, reads_padding: bool = False) -> None:
    """Write ``tokenizer.json`` and ``tokenizer_config.json`` for transformers.

    Clean texts get the same ids in transformers, which neither repairs mojibake nor unescapes HTML.

    Args:
      reads_padding: whether the text tower reads padding. Then the file has an additional last id for padding, and
        `padded_embedding` its row; transformers would otherwise pad with the end-of-text token, or mask the padding.
    """
    description = json.loads(tokenizer.describe())
    if tokenizer.is_foreign:
        description, settings = _foreign_files(description, tokenizer)
    elif _is_clip(description):
        description, settings = _clip_files(description, tokenizer, folder)
    else:
        settings = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": SOT, "eos_token": EOT, "pad_token": EOT}
        cleaning = [SPACES, {"type": "Strip", "strip_left": True, "strip_right": True}, {"type": "Lowercase"}]
        description["normalizer"] = {"type": "Sequence", "normalizers": cleaning}
        description = _with_special_tokens(description, tokenizer, SOT, EOT)
    settings["model_max_length"] = tokenizer.context_length
    settings["model_input_names"] = ["input_ids"] if reads_padding else ["input_ids", "attention_mask"]
    if has_padding_row(tokenizer, reads_padding):
        settings["pad_token"] = PAD
        description = {**description, "added_tokens": [*description["added_tokens"], _added(PAD, tokenizer.vocab_size)]}
    for name, content in (("tokenizer.json", description), ("tokenizer_config.json", settings)):
        text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
        (folder / name).write_text(text, encoding="utf-8")


def has_padding_row(tokenizer: Tokenizer, reads_padding: bool) -> bool:
    """Whether an exported tokenizer has an id for padding in addition to the ids of `tokenizer`."""
    return reads_padding and not tokenizer.is_foreign


def padded_embedding(embedding_VD: np.ndarray) -> np.ndarray:
    """Token embeddings with a last row for padding: the row of id 0, with which our tokenizers pad. [V + 1, D]."""
    return np.concatenate([embedding_VD, embedding_VD[:1]])


def _added(token: str, token_id: int) -> dict[str, Any]:
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {"id": token_id, "content": token} | flags


def _foreign_files(description: dict[str, Any], tokenizer: Tokenizer) -> tuple[dict[str, Any], dict[str, Any]]:
    """``tokenizer.json`` and ``tokenizer_config.json`` of another model's tokenizer."""
    token_of = {i: token for token, i in reversed(_vocabulary(description).items())}
    first, last, pad = (token_of[i] for i in _special_ids(tokenizer))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": last, "pad_token": pad}
    settings |= {"bos_token": first} if tokenizer.special.before else {}
    return _with_special_tokens(description, tokenizer, first, last), settings


def _clip_files(
    description: dict[str, Any], tokenizer: Tokenizer, folder: Path
) -> tuple[dict[str, Any], dict[str, Any]]:
    """`_foreign_files` for CLIP's vocabulary; writes ``vocab.json`` and ``merges.txt`` too, for CLIPTokenizer."""
    ids = {token: i for token, i in description["model"]["vocab"].items() if token not in (SOT, EOT)}
    ids |= {HF_SOT: tokenizer.sot_id, HF_EOT: tokenizer.eot_id}
    merges = _merges(description["model"])
    (folder / "vocab.json").write_text(json.dumps(ids, ensure_ascii=False), encoding="utf-8")
    lines = ["#version: 0.2", *(" ".join(merge) for merge in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    settings = {"tokenizer_class": "CLIPTokenizer", "bos_token": HF_SOT, "eos_token": HF_EOT}
    settings |= {"pad_token": HF_EOT, "unk_token": HF_EOT}
    return clip_pipeline(ids, merges), settings


def _special_ids(tokenizer: Tokenizer) -> tuple[int, int, int]:
    """The first id of every text, its last id, and the id of padding."""
    special = tokenizer.special
    return (special.before or special.after)[0], special.after[-1], special.pad


def _with_special_tokens(description: dict[str, Any], tokenizer: Tokenizer, first: str, last: str) -> dict[str, Any]:
    """The description with a post-processor that adds our special tokens to a text."""
    before = [{"SpecialToken": {"id": first, "type_id": 0}}] if tokenizer.special.before else []
    single = [*before, {"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": last, "type_id": 0}}]
    ids = dict(zip((first, last), _special_ids(tokenizer), strict=False))
    known = {name: {"id": name, "ids": [i], "tokens": [name]} for name, i in ids.items()}
    template = {"type": "TemplateProcessing", "single": single, "pair": single, "special_tokens": known}
    return description | {"post_processor": template}
