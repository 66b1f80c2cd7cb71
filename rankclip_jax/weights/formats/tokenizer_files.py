"""Read and write the tokenizers of Hugging Face folders.

Input is ``tokenizer.json``, or ``vocab.json`` and ``merges.txt``, with the special tokens in
``tokenizer_config.json``. CLIP's vocabulary of 49,408 tokens becomes our CLIP tokenizer, which also cleans text; its
last two tokens may have other names. Any other tokenizer is used unchanged.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tokenizers

from rankclip_jax.data.text.tokenizer import CLIP_VOCAB_SIZE, EOT, SOT, SpecialTokens, Tokenizer, clip_tokenizer
from rankclip_jax.errors import UserError
from rankclip_jax.weights.formats.tensor_files import read_json

# Names of CLIP's two special tokens in Hugging Face folders.
HF_SOT, HF_EOT = "<|startoftext|>", "<|endoftext|>"
# Cleaning that these classes do in code; their tokenizer.json does not contain it.
CLEANING_OF_CLASS = {
    "SiglipTokenizer": "canonical",
    "T5Tokenizer": "canonical",  # in converted SigLIP models
    "GemmaTokenizer": "lower",  # SigLIP 2
    "Siglip2Tokenizer": "lower",
}
# CLIPTokenizer's own pipeline. For clean texts, it returns the same tokens as ours.
SPLIT = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
SPACES = {"type": "Replace", "pattern": {"Regex": r"\s+"}, "content": " "}


def read_tokenizer(folder: Path, context_length: int, vocab_size: int, kind: str) -> Tokenizer:
    """Read the tokenizer of a Hugging Face folder.

    Args:
      context_length: ids per text.
      vocab_size: rows of the model's token embedding.
      kind: "clip" or "siglip"; its conventions apply where the files have no setting.

    Raises:
      UserError: no tokenizer can be read, or its vocabulary does not have `vocab_size` ids.
    """
    settings = _settings(folder)
    description = _description(folder, kind)
    found = len(_vocabulary(description))
    if found != vocab_size:
        raise UserError(
            f"the tokenizer in {folder} has {found:,} ids, but the model's token embedding has {vocab_size:,} rows: "
            "replace it by the model's own tokenizer."
        )
    if _is_clip(description):
        return clip_tokenizer(context_length)
    ours = _is_ours(description)
    if ours:
        description |= {"normalizer": None, "post_processor": None, "added_tokens": []}
    try:
        bpe = tokenizers.Tokenizer.from_str(json.dumps(description))
    except Exception as error:  # tokenizers raises bare Exception
        raise UserError(f"cannot read the tokenizer in {folder} ({error}): download it again.") from error
    if ours:
        return Tokenizer(bpe, context_length)
    bpe.no_truncation()
    bpe.no_padding()
    return Tokenizer(bpe, context_length, _special_tokens(bpe, description, settings, folder, kind))


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
    if (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file() and kind == "clip":
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
    if model.get("type", "BPE") != "BPE" or len(_vocabulary(description)) != CLIP_VOCAB_SIZE:
        return False
    clip = json.loads(clip_tokenizer().describe())
    ids, hf_names = _vocabulary(description), {SOT: HF_SOT, EOT: HF_EOT}
    same_ids = all(ids.get(token, ids.get(hf_names.get(token))) == i for token, i in _vocabulary(clip).items())
    return same_ids and _merges(model) == _merges(clip["model"])


def _is_ours(description: Mapping[str, Any]) -> bool:
    """Whether this package trained it. The file then has steps that our class does in code (`write_tokenizer`)."""
    ids = _vocabulary(description)
    return (ids.get(SOT), ids.get(EOT)) == (len(ids) - 2, len(ids) - 1)


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
        before, after = ([bos] if kind == "clip" and bos is not None else []), [eos]
    if not after:
        raise UserError(f"the tokenizer in {folder} has no end-of-text token: set eos_token in its config.")
    pad = _token_id(bpe, settings, "pad_token")
    name = str(settings.get("tokenizer_class", "")).removesuffix("Fast")
    lowers = "Lowercase" in json.dumps(description.get("normalizer"))
    usual = {"clip": "clip" if lowers else "none", "siglip": "none" if lowers else "canonical"}[kind]
    cleaning = CLEANING_OF_CLASS.get(name, usual)
    return SpecialTokens(tuple(before), tuple(after), after[-1] if pad is None else pad, cleaning)


def _token_id(bpe: tokenizers.Tokenizer, settings: Mapping[str, Any], role: str) -> int | None:
    token = settings.get(role)
    token = token.get("content") if isinstance(token, Mapping) else token
    return None if token is None else bpe.token_to_id(token)


def clip_pipeline(vocabulary: Mapping[str, int], merges: Any) -> dict[str, Any]:
    """The JSON of the tokenizer that transformers' CLIPTokenizer builds from vocabulary and merges."""
    special = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    sot, eot = ((token, vocabulary[token]) for token in _special_names(vocabulary))
    split = {"type": "Split", "pattern": {"Regex": SPLIT}, "behavior": "Removed", "invert": True}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    framing = {"type": "RobertaProcessing", "sep": eot, "cls": sot, "trim_offsets": False, "add_prefix_space": False}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": number, "content": token} | special for token, number in (sot, eot)],
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


def write_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    """Write ``tokenizer.json`` and ``tokenizer_config.json`` for transformers.

    Clean texts get the same ids in transformers, which neither repairs mojibake nor unescapes HTML.
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
    settings["model_input_names"] = ["input_ids", "attention_mask"]
    for name, content in (("tokenizer.json", description), ("tokenizer_config.json", settings)):
        text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
        (folder / name).write_text(text, encoding="utf-8")


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
