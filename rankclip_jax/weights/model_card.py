"""README.md of an exported model: what it is, how to open it, its results."""

from collections.abc import Sequence
from pathlib import Path

from rankclip_jax.checkpoints.run_copy import read_record
from rankclip_jax.evals.results import EVAL_FILE, PROBE_FILE, read_results
from rankclip_jax.image_size import size_text
from rankclip_jax.inference.load import find_run, is_run
from rankclip_jax.inference.model import Model


def model_card(model: Model, library: str, usage: str, omitted: Sequence[str]) -> str:
    """The model card as Markdown, with the metadata that the Hugging Face hub reads.

    Args:
      model: the exported model.
      library, usage: the library that opens the folder, and Python code that does so.
      omitted: notes on what the format cannot hold.
    """
    image, text = model.config.image, model.config.text
    size = f"{size_text(image.image_size)} pixels, {model.config.embed_dim} dimensions"
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
    """Where the weights come from: the source of imported weights, or the steps, objective and data of a run."""
    if model.format not in ("run", "imported folder"):
        return f"{model.origin} ({model.format})"
    record = read_record(find_run(Path(model.origin))[0])
    if "imported" in record:
        return f"{record['imported']['from']} ({record['imported']['format']})"
    config = record["config"]
    return (
        f"a run: {model.step:,} steps of {config['batch_size']} pairs with the objective "
        f"`{config['objective']['name']}` on `{config['data']['name']}`"
    )


def _results(model: Model) -> list[str]:
    """The metrics in ``eval.json`` and ``linear_probe.json``, if they belong to the exported step."""
    if not is_run(model.origin):
        return []
    folder = find_run(Path(model.origin))[0]
    rows = [row for name in (EVAL_FILE, PROBE_FILE) for row in _rows(folder / name, model.step)]
    title = f"Results at step {model.step:,}:" if model.step else "Results:"
    return ["", title, "", "| split | metric | value | chance |", "|---|---|---|---|", *rows] if rows else []


def _rows(path: Path, step: int) -> list[str]:
    results = read_results(path) or {}
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
