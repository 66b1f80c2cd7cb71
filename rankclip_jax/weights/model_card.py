"""README.md of an exported model: what it is, how to open it, its results."""

import json
from collections.abc import Sequence
from pathlib import Path

from rankclip_jax.config.record import load_run_config
from rankclip_jax.evals.results import EVAL_FILE, PROBE_FILE
from rankclip_jax.inference.load import find_run, is_run
from rankclip_jax.inference.model import Model


def model_card(model: Model, library: str, usage: str, omitted: Sequence[str]) -> str:
    """The card as Markdown, with the metadata that the Hugging Face hub reads.

    Args:
      model: the exported model.
      library: the library that opens the folder.
      usage: Python code that opens it.
      omitted: notes on what the format cannot hold.
    """
    image, text = model.config.image, model.config.text
    size = f"{image.image_size} x {image.image_size} pixels, {model.config.embed_dim} dimensions"
    vocabulary = f"vocabulary of {model.tokenizer.vocab_size:,} tokens, context length {text.context_length}"
    lines = [
        "---",
        f"library_name: {library}",
        "pipeline_tag: zero-shot-image-classification",
        "tags: [clip, rankclip_jax]",
        "---",
        "",
        f"# {Path(model.origin).name}",
        "",
        f"A {model.config.name} image-text model ({image.tower} and {text.tower}; {size}; {vocabulary}), exported by "
        f"rankclip_jax from {_origin(model)}.",
        "",
        "```python",
        usage,
        "```",
        *_results(model),
        *(["", "Not in this format: " + "; ".join(omitted) + "."] if omitted else []),
        "",
        "Pass clean texts: rankclip_jax repairs mojibake, unescapes HTML and lower-cases before tokenization; the "
        "tokenizer in this folder only lower-cases.",
    ]
    return "\n".join(lines) + "\n"


def _origin(model: Model) -> str:
    """Where the weights are from: the source of imported weights, or steps, objective and data of a run."""
    if model.format == "imported folder":
        imported = load_run_config(str(find_run(Path(model.origin))[0]))["imported"]
        return f"{imported['from']} ({imported['format']})"
    if model.format != "run":
        return f"{model.origin} ({model.format})"
    config = load_run_config(str(find_run(Path(model.origin))[0]))["config"]
    return (
        f"a run: {model.step:,} steps of {config['batch_size']} pairs with the objective "
        f"`{config['objective']['name']}` on `{config['data']['name']}`"
    )


def _results(model: Model) -> list[str]:
    """The metrics in ``eval.json`` and ``linear_probe.json``, if they belong to the exported step."""
    if not is_run(model.origin):
        return []
    folder, rows = find_run(Path(model.origin))[0], []
    for name in (EVAL_FILE, PROBE_FILE):
        rows += _rows(folder / name, model.step)
    title = f"Results at step {model.step:,}:" if model.step else "Results:"
    return ["", title, "", "| split | metric | value | chance |", "|---|---|---|---|", *rows] if rows else []


def _rows(path: Path, step: int) -> list[str]:
    results = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    if results.get("step") != step:
        return []
    chance = results.get("chance", {})
    return [
        f"| {_plain(key)} | {value:.4f} | {f'{chance[key]:.4f}' if key in chance else ''} |"
        for key, value in sorted(results["metrics"].items())
    ]


def _plain(key: str) -> str:
    """The first two cells of a row: "val | image-to-text R@1" for "val/image_to_text_R@1"."""
    split, _, metric = key.replace("|", "/").partition("/")
    return f"{split} | {metric.replace('_to_', '-to-').replace('_', ' ')}"
