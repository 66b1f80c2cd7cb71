"""Write the report of a run, and print its path: ``python -m rankclip_jax.report RUN_DIR [--out=DIR]``."""

from absl import flags

from rankclip_jax.cli import run
from rankclip_jax.errors import UserError
from rankclip_jax.report import write_report
from rankclip_jax.terminal.show import show


def main(argv: list[str]) -> None:
    if len(argv) != 2:
        raise UserError(f"expected one run folder, found {len(argv) - 1}: python -m rankclip_jax.report RUN_DIR")
    show(write_report(argv[1], OUT.value))


if __name__ == "__main__":
    OUT = flags.DEFINE_string("out", None, "folder for the page, perhaps with results of evaluate --out")
    run(main, positional=True)
