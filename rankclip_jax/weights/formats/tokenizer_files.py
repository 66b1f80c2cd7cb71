"""Tokenizers as Hugging Face folders hold them: read into ours, and written from ours.

Read: ``tokenizer.json``, or ``vocab.json`` and ``merges.txt``, with the special tokens that
``tokenizer_config.json`` names. CLIP's own 49,408 tokens are recognised, whatever the file calls the last two,
and become our tokenizer, which also mends text as CLIP's does. Any other is used as its file says.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tokenizers

from rankclip_jax.data.text.tokenizer import CLIP_VOCAB_SIZE, EOT, SOT, SpecialTokens, Tokenizer, clip_tokenizer
from rankclip_jax.errors import UserError
from rankclip_jax.weights.formats.reading import read_json

# The names that CLIP's two special tokens have in Hugging Face folders.
HF_SOT, HF_EOT = "<|startoftext|>", "<|endoftext|>"
# Cleaning that these classes do outside of their tokenizer.json.
CLEANING_OF_CLASS = {
    "SiglipTokenizer": "canonical",
    "T5Tokenizer": "canonical",  # of SigLIP's conversions
    "GemmaTokenizer": "lower",  # of SigLIP 2
    "Siglip2Tokenizer": "lower",
}
# What follows CLIP's cleaning in CLIPTokenizer's own pipeline changes nothing that is left after it.
SPLIT = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
SPACES = {"type": "Replace", "pattern": {"Regex": r"\s+"}, "content": " "}


def read_tokenizer(folder: Path, context_length: int, vocab_size: int, kind: str) -> Tokenizer:
    """The tokenizer of a Hugging Face folder.

    Args:
      folder: holds the files.
      context_length: ids per text.
      vocab_size: rows of the model's token embedding.
      kind: "clip" or "siglip", whose conventions fill what the files leave open.

    Raises:
      UserError: no tokenizer that can be read, or one of another vocabulary than the model's.
    """
    settings = _settings(folder)
    description = _description(folder, kind)
    found = len(_vocabulary(description))
    if found != vocab_size:
        raise UserError(
            f"the tokenizer in {folder} has {found:,} ids and the model's token embedding {vocab_size:,} rows: "
            "it is another vocabulary; put the model's own tokenizer there."
        )
    if _is_clips(description):
        return clip_tokenizer(context_length)
    own = _is_own(description)
    if own:
        description |= {"normalizer": None, "post_processor": None, "added_tokens": []}
    try:
        bpe = tokenizers.Tokenizer.from_str(json.dumps(description))
    except Exception as error:  # tokenizers raises bare Exception
        raise UserError(f"cannot read the tokenizer in {folder} ({error}): restore it.") from error
    if own:
        return Tokenizer(bpe, context_length)
    bpe.no_truncation()
    bpe.no_padding()
    return Tokenizer(bpe, context_length, _frame(bpe, description, settings, folder, kind))


def _settings(folder: Path) -> dict[str, Any]:
    """``tokenizer_config.json``, after ``special_tokens_map.json``, as far as they are there."""
    found: dict[str, Any] = {}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        if (folder / name).is_file():
            found |= {key: value for key, value in read_json(folder / name).items() if value is not None}
    return found


def _description(folder: Path, kind: str) -> dict[str, Any]:
    """A tokenizer in the `tokenizers` library's JSON."""
    if (folder / "tokenizer.json").is_file():
        description = read_json(folder / "tokenizer.json")
        if not isinstance(description.get("model"), dict):
            raise UserError(f"{folder / 'tokenizer.json'} is damaged (it has no model): get it again.")
        return description
    if (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file() and kind == "clip":
        lines = (folder / "merges.txt").read_text(encoding="utf-8").splitlines()
        merges = [line.split() for line in lines if line and not line.startswith("#version")]
        return clip_pipeline(read_json(folder / "vocab.json"), merges)
    if (folder / "spiece.model").is_file():
        raise UserError(
            f"{folder} has its tokenizer as spiece.model alone, which is not read here: save it with "
            "transformers' save_pretrained as tokenizer.json beside the weights."
        )
    raise UserError(f"there is no tokenizer.json in {folder}: get the whole folder, with its tokenizer.")


def _vocabulary(description: Mapping[str, Any]) -> dict[str, int]:
    model = description["model"].get("vocab", {})
    # A Unigram model's vocabulary is a list of (token, score).
    ids = model if isinstance(model, dict) else {token: i for i, (token, _) in enumerate(model)}
    return ids | {token["content"]: token["id"] for token in description.get("added_tokens") or ()}


def _is_clips(description: Mapping[str, Any]) -> bool:
    """Whether ids and merges are CLIP's; the pipeline around them is then taken to be CLIP's too."""
    model = description["model"]
    if model.get("type", "BPE") != "BPE" or len(_vocabulary(description)) != CLIP_VOCAB_SIZE:
        return False
    ours = json.loads(clip_tokenizer().describe())
    ids, own = _vocabulary(description), _vocabulary(ours)
    special = {SOT: HF_SOT, EOT: HF_EOT}
    same_ids = all(ids.get(token, ids.get(special.get(token))) == number for token, number in own.items())
    return same_ids and _merges(model) == _merges(ours["model"])


def _is_own(description: Mapping[str, Any]) -> bool:
    """Whether it was trained here: `write_tokenizer` adds to such a one what our class does by itself."""
    ids = _vocabulary(description)
    return (ids.get(SOT), ids.get(EOT)) == (len(ids) - 2, len(ids) - 1)


def _merges(model: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Older files hold "a b" where newer ones hold ["a", "b"]."""
    return [tuple(merge.split(" ")) if isinstance(merge, str) else tuple(merge) for merge in model["merges"]]


def _frame(
    bpe: tokenizers.Tokenizer, description: Mapping[str, Any], settings: Mapping[str, Any], folder: Path, kind: str
) -> SpecialTokens:
    """What the files say of the ids around a text, of padding and of cleaning."""
    eos = _token_id(bpe, settings, "eos_token")
    ids, bare = (bpe.encode("a", add_special_tokens=special).ids for special in (True, False))
    start = next((i for i in range(len(ids)) if ids[i : i + len(bare)] == bare), 0)
    before, after = ids[:start], ids[start + len(bare) :]
    if not after and eos is not None:  # no post-processor: by the model's convention
        bos = _token_id(bpe, settings, "bos_token")
        before, after = ([bos] if kind == "clip" and bos is not None else []), [eos]
    if not after:
        raise UserError(f"the tokenizer in {folder} ends texts with no token: name its eos_token in its config.")
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
    """A tokenizer as transformers' CLIPTokenizer builds it from its two files."""
    special = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    sot, eot = ((token, vocabulary[token]) for token in _special_of(vocabulary))
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


def _special_of(vocabulary: Mapping[str, int]) -> tuple[str, str]:
    for names in ((HF_SOT, HF_EOT), (SOT, EOT)):
        if all(name in vocabulary for name in names):
            return names
    raise UserError(f"the tokenizer's vocabulary has no {HF_SOT} and {HF_EOT}: it is not CLIP's.")


def write_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    """Write ``tokenizer.json`` and ``tokenizer_config.json`` for transformers, with the same ids for clean text.

    transformers neither mends mojibake nor unescapes HTML before it cuts a text: only ours does.
    """
    description = json.loads(tokenizer.describe())
    if tokenizer.is_foreign:
        names = [next(t for t, i in _vocabulary(description).items() if i == n) for n in _framing_ids(tokenizer)]
        settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": names[1], "pad_token": names[2]}
        settings |= {"bos_token": names[0]} if tokenizer.frame.before else {}
        description = _with_frame(description, tokenizer, *names[:2])
    elif _is_clips(description):
        ids = {token: number for token, number in description["model"]["vocab"].items() if token not in (SOT, EOT)}
        ids |= {HF_SOT: tokenizer.sot_id, HF_EOT: tokenizer.eot_id}
        description = clip_pipeline(ids, description["model"]["merges"])
        settings = {"tokenizer_class": "CLIPTokenizer", "bos_token": HF_SOT, "eos_token": HF_EOT}
        settings |= {"pad_token": HF_EOT, "unk_token": HF_EOT}
        (folder / "vocab.json").write_text(json.dumps(ids, ensure_ascii=False), encoding="utf-8")
        lines = ["#version: 0.2", *(" ".join(merge) for merge in _merges(description["model"]))]
        (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    else:
        settings = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": SOT, "eos_token": EOT, "pad_token": EOT}
        cleaning = [SPACES, {"type": "Strip", "strip_left": True, "strip_right": True}, {"type": "Lowercase"}]
        description["normalizer"] = {"type": "Sequence", "normalizers": cleaning}
        description = _with_frame(description, tokenizer, SOT, EOT)
    settings["model_max_length"] = tokenizer.context_length
    settings["model_input_names"] = ["input_ids", "attention_mask"]
    for name, content in (("tokenizer.json", description), ("tokenizer_config.json", settings)):
        text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
        (folder / name).write_text(text, encoding="utf-8")


def _framing_ids(tokenizer: Tokenizer) -> tuple[int, int, int]:
    frame = tokenizer.frame
    return (frame.before or frame.after)[0], frame.after[-1], frame.pad


def _with_frame(description: dict[str, Any], tokenizer: Tokenizer, first: str, last: str) -> dict[str, Any]:
    """The description with a post-processor that frames a text as ours does."""
    before = [{"SpecialToken": {"id": first, "type_id": 0}}] if tokenizer.frame.before else []
    single = [*before, {"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": last, "type_id": 0}}]
    ids = dict(zip((first, last), _framing_ids(tokenizer), strict=False))
    known = {name: {"id": name, "ids": [number], "tokens": [name]} for name, number in ids.items()}
    template = {"type": "TemplateProcessing", "single": single, "pair": single, "special_tokens": known}
    return description | {"post_processor": template}
