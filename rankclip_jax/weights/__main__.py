"""Import weights of other libraries, export weights for them, and compare results with them.

    python -m rankclip_jax.weights import SOURCE --out=DIR [--config=FILE.json] [--activation=quick_gelu|gelu]
    python -m rankclip_jax.weights export RUN --format=hf|open_clip --out=DIR [--step=best|N]
    python -m rankclip_jax.weights check SOURCE [--against=RUN] [--step=best|N] [--images=32]

SOURCE is a weights file or a folder of OpenAI, open_clip or transformers, or a hub id. RUN is a run folder or an
imported folder. `check` opens SOURCE in the other library, which needs torch, and compares embeddings and logits on
real images. Its exit code is 2 if they differ. See docs/weights.md.
"""

from collections.abc import Callable

from absl import flags

from rankclip_jax import cli
from rankclip_jax.errors import UserError, lookup
from rankclip_jax.image_size import size_text
from rankclip_jax.models.counts import tower_counts
from rankclip_jax.terminal.show import show


def _import(source: str) -> None:
    from rankclip_jax.weights.folder import check_new, write_imported
    from rankclip_jax.weights.formats.source import read_source

    given = flags.FLAGS
    out = _needed("out", "DIR", source)
    check_new(out)
    model = read_source(source, given.config or "", given.activation)
    write_imported(model, out)
    counts = ", ".join(f"{name} {count:,}" for name, count in tower_counts(model.weights.params).items())
    image, text = model.config.image, model.config.text
    towers = f"{image.tower} for {size_text(image.image_size)} px, texts of {text.context_length} tokens"
    show(f"{source}: {model.format}, {towers}")
    show(f"parameters: {counts}; every tensor was used")
    for line in model.notes:
        show(f"note: {line}")
    show(f"written to {out}; evaluate it: python -m rankclip_jax.evaluate {out} --config=configs/emoji.py")


def _export(source: str) -> None:
    from rankclip_jax.weights.export import export

    given = flags.FLAGS
    name, out = _needed("format", "hf", source), _needed("out", "DIR", source)
    for line in export(source, name, out, given.step):
        show(f"note: {line}")
    show(f"written to {out}; check it: python -m rankclip_jax.weights check {out} --against={source}")


def _check(source: str) -> None:
    from rankclip_jax.weights.check import check, table

    given = flags.FLAGS
    rows = check(source, given.against, given.step, given.images)
    show(table(rows))
    wrong = [row.what for row in rows if not row.holds]
    if wrong:
        raise UserError(f"the other library computes other results from {source}: {', '.join(wrong)}; see the table.")


COMMANDS: dict[str, Callable[[str], None]] = {"import": _import, "export": _export, "check": _check}


def _needed(flag: str, example: str, source: str) -> str:
    value = getattr(flags.FLAGS, flag)
    if not value:
        raise UserError(f"--{flag} is required: python -m rankclip_jax.weights ... {source} --{flag}={example}")
    return value


def define_flags() -> None:
    """Define the flags of all three commands."""
    flags.DEFINE_string("out", None, "import, export: the folder to create; it must not exist")
    flags.DEFINE_string("format", None, "export: hf (transformers) or open_clip")
    flags.DEFINE_string("step", None, "export, check: checkpoint of the run: a step, or best; default: the newest")
    flags.DEFINE_string("config", None, "import: open_clip's JSON config, for a state dict without one")
    flags.DEFINE_string("activation", "", "import: quick_gelu or gelu, for a state dict without config")
    flags.DEFINE_string("against", "", "check: the run that SOURCE was exported from; default: SOURCE itself, imported")
    flags.DEFINE_integer("images", 32, "check: number of images and texts to compare")


def main(argv: list[str]) -> None:
    """Run one command."""
    if len(argv) != 3:
        known = "|".join(COMMANDS)
        raise UserError(f"expected a command and a source: python -m rankclip_jax.weights {known} SOURCE; see --help.")
    lookup(COMMANDS, argv[1], "command")(argv[2])


if __name__ == "__main__":
    define_flags()
    cli.run(main, positional=True)
