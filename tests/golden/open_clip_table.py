"""The table of docs/weights.md: which models of open_clip are read, compared with open_clip's own embeddings.

    pip install -e '.[peers]'
    python -m tests.golden.open_clip_table [PATTERN] [--write]

Each model of open_clip is built with random weights, saved with its config, read by this package, and both compute
embeddings of the same pixels and tokens. Models with a text tower of transformers need a download, and only their
config is checked. Most models have fewer layers, and some a smaller vocabulary, but all their options and widths.
`--write` replaces the table in docs/weights.md.
"""

import contextlib
import fnmatch
import json
import logging
import re
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rankclip_jax.errors import UserError
from rankclip_jax.models.two_towers import build_towers
from rankclip_jax.weights.formats.open_clip_config import check_supported
from rankclip_jax.weights.formats.source import read_source

DOCS = Path(__file__).resolve().parents[2] / "docs" / "weights.md"
START, END = "<!-- open_clip: start -->", "<!-- open_clip: end -->"
LIMIT = 1e-5
# These models are built completely. The others have FEW_LAYERS layers (blocks in each stage of a ResNet), and FEW_IDS
# ids unless they have CLIP's vocabulary: complete, each would take minutes.
COMPLETE = ("ViT-S-*", "ViT-M-*", "ViT-B-32", "ViT-B-32-quickgelu", "RN50", "RN50-quickgelu")
FEW_LAYERS, FEW_IDS = 2, 1000


class Row(NamedTuple):
    """One model: how it was built, and the largest errors of image and text embeddings, or why it is not read."""

    name: str
    built: str
    image_error: float | None = None
    text_error: float | None = None
    refusal: str = ""

    @property
    def holds(self) -> bool:
        return bool(self.refusal) or max(self.image_error, self.text_error) <= LIMIT


def rows(pattern: str = "*") -> Iterator[Row]:
    """Build and compare the models of open_clip whose names match `pattern`."""
    import open_clip

    logging.disable(logging.WARNING)
    for name in sorted(fnmatch.filter(open_clip.list_models(), pattern), key=str.lower):
        yield compare(name, open_clip.get_model_config(name))


def compare(name: str, cfg: dict[str, Any]) -> Row:
    """Build one model, read it, and compare."""
    try:
        check_supported(cfg, "config")
    except UserError as error:
        return Row(name, "config", refusal=str(error).removeprefix("config: "))
    cfg, built = (cfg, "complete") if any(fnmatch.fnmatch(name, one) for one in COMPLETE) else smaller(cfg)
    with tempfile.TemporaryDirectory() as folder:
        with fewer_timm_layers("layers" in built):
            pixels, tokens, image, text = theirs(cfg, Path(folder))
        model = read_source(folder)
        towers = build_towers(model.config, model.tokenizer.vocab_size, model.tokenizer.eot_id)
        variables = {"params": model.weights.params["towers"], **model.weights.model_state}
        ours = np.asarray(towers.apply(variables, pixels, method="encode_image"))
        ours_text = np.asarray(towers.apply(variables, tokens, method="encode_text"))
    return Row(name, built, float(np.abs(ours - image).max()), float(np.abs(ours_text - text).max()))


def smaller(cfg: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """The config of a model that is built in seconds, and what was made smaller."""
    vision, text = dict(cfg["vision_cfg"]), dict(cfg["text_cfg"])
    text["layers"] = FEW_LAYERS
    changes = f"{FEW_LAYERS} layers"
    if isinstance(vision.get("layers"), list):
        vision["layers"] = [1, FEW_LAYERS, 1, 1]
    elif "layers" in vision:
        vision["layers"] = FEW_LAYERS
    if text.get("hf_tokenizer_name"):
        changes += f", {FEW_IDS:,} ids"
        text["vocab_size"] = FEW_IDS
    return {**cfg, "vision_cfg": vision, "text_cfg": text}, changes


@contextlib.contextmanager
def fewer_timm_layers(fewer: bool) -> Iterator[None]:
    """timm builds its transformers with `FEW_LAYERS` layers inside the block."""
    import timm

    create = timm.create_model
    if fewer:
        timm.create_model = lambda *args, **options: create(*args, depth=FEW_LAYERS, **options)
    try:
        yield
    finally:
        timm.create_model = create


def theirs(cfg: dict[str, Any], folder: Path) -> tuple[np.ndarray, ...]:
    """Save a model with random weights in `folder`, and return pixels, tokens, and its embeddings of both."""
    import open_clip
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(0)
    build = {key: value for key, value in cfg.items() if key != "custom_text"}
    kind = open_clip.model.CustomTextCLIP if cfg.get("custom_text") else open_clip.model.CLIP
    model = kind(**build).eval()
    for parameter in model.parameters():  # so that zeros and ones, such as layer scales, have an effect
        parameter.data += 0.02 * torch.randn_like(parameter)
    state = {key: value.contiguous() for key, value in model.state_dict().items()}
    save_file(state, folder / "open_clip_model.safetensors")
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": cfg, "preprocess_cfg": {}}))
    text = cfg["text_cfg"]
    if text.get("hf_tokenizer_name"):
        write_words(folder, text["vocab_size"], text.get("eos_id", 2))
    rng = np.random.default_rng(0)
    side = cfg["vision_cfg"]["image_size"]
    pixels = rng.integers(0, 256, (2, side, side, 3), dtype=np.uint8)
    tokens = rng.integers(3, text["vocab_size"] - 1, (2, text["context_length"]))
    tokens[:, -5] = text.get("eos_id", 2) if text.get("pool_type") == "eos" else text["vocab_size"] - 1
    tokens[:, -4:] = 0
    mean, std = (np.array(x) for x in (open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD))
    given = torch.tensor(((pixels / 255 - mean) / std).transpose(0, 3, 1, 2)).float()
    with torch.no_grad():
        image = model.encode_image(given, normalize=True).numpy()
        embeds = model.encode_text(torch.tensor(tokens), normalize=True).numpy()
    return pixels, tokens.astype(np.int32), image, embeds


def write_words(folder: Path, count: int, end: int) -> None:
    """A tokenizer of `count` words, whose end-of-text token has the id `end`."""
    import tokenizers

    words = {f"w{i}": i for i in range(count)}
    words["</s>"] = words.pop(f"w{end}")
    bpe = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="w3"))
    bpe.save(str(folder / "tokenizer.json"))
    settings = {"eos_token": "</s>", "pad_token": "w0", "sep_token": "</s>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def table(found: list[Row]) -> str:
    """The table in Markdown: models that are read with their errors, and the reasons why others are not."""
    read = [row for row in found if not row.refusal]
    lines = ["| model | built with | image error | text error |", "|---|---|---|---|"]
    lines += [f"| {row.name} | {row.built} | {row.image_error:.1e} | {row.text_error:.1e} |" for row in read]
    reasons: dict[str, list[str]] = {}
    for row in found:
        if row.refusal:
            reasons.setdefault(reason(row.refusal), []).append(row.name)
    lines += ["", "| not read | reason |", "|---|---|"]
    lines += [f"| {', '.join(names)} | {reason} |" for reason, names in sorted(reasons.items(), key=lambda x: x[1])]
    return "\n".join(lines)


def reason(refusal: str) -> str:
    """The error without the name of the tower and the advice, so that models with the same reason share a row."""
    return re.sub(r"the (\w+) tower \S+ of (\w+) is not supported: (.*?)\. Use .*", r"\1 tower of \2: \3", refusal)


def documented() -> dict[str, tuple[float, float] | str]:
    """The table in the docs: the two errors of a model by its name, or the reason why it is not read."""
    text = DOCS.read_text(encoding="utf-8").split(START)[1].split(END)[0]
    cells = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")]
    read = {one[0]: (float(one[2]), float(one[3])) for one in cells if len(one) == 4 and one[0] != "model"}
    refused = {name: one[1] for one in cells if len(one) == 2 for name in one[0].split(", ")}
    return read | {name: why for name, why in refused.items() if name != "not read"}


def main(arguments: list[str]) -> None:
    """Print each row as it is ready; with `--write`, replace the table in the docs."""
    patterns = [argument for argument in arguments if argument != "--write"]
    found = []
    for row in rows(*patterns):
        found.append(row)
        errors = row.refusal or f"image {row.image_error:.1e}, text {row.text_error:.1e}"
        print(f"{row.name}: {errors}{'' if row.holds else '  DIFFERS'}", flush=True)
    if "--write" in arguments:
        text = DOCS.read_text(encoding="utf-8")
        before, after = text.split(START)[0], text.split(END)[1]
        DOCS.write_text(f"{before}{START}\n{table(found)}\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
