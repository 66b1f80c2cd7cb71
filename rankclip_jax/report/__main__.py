"""Write the report of a run: ``python -m rankclip_jax.report RUN_DIR`` writes RUN_DIR/report.html, prints its path."""

from rankclip_jax.cli import run
from rankclip_jax.errors import UserError
from rankclip_jax.report import write_report


def main(argv: list[str]) -> None:
    if len(argv) != 2:
        raise UserError(f"expected one run folder, found {len(argv) - 1}: python -m rankclip_jax.report RUN_DIR")
    print(write_report(argv[1]))


if __name__ == "__main__":
    run(main, positional=True)
