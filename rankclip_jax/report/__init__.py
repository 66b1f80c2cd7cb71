"""A self-contained HTML page about one run: ``python -m rankclip_jax.report RUN_DIR``."""

from rankclip_jax.report.page import write_report

__all__ = ["write_report"]
