"""Puts the sections together into one self-contained file."""

import json
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from rankclip_jax.files import replaced_file
from rankclip_jax.report import chart, curves, embedding_map, galleries, ranked_lists, summary, tables
from rankclip_jax.report.neighbours import Neighbours
from rankclip_jax.report.run_folder import Run, read_run

REPORT_FILE = "report.html"
HERE = Path(__file__).parent
SCRIPTS = ("charts.js", "cutout.js", "map.js", "explorer.js")


def write_report(run_dir: str | os.PathLike) -> Path:
    """Write ``report.html`` into the run folder and return its path.

    Sections whose inputs are not there yet say so, so it may be called while the run goes on. The file is
    replaced atomically.

    Args:
      run_dir: a run folder; see `run_folder` for what is read.

    Raises:
      UserError: no run there, or one of its files is damaged.
    """
    page = render(read_run(run_dir))
    path = Path(run_dir) / REPORT_FILE
    with replaced_file(path) as file:
        file.write(page)
    return path


def render(run: Run) -> str:
    """Return the whole page as text."""
    environment = Environment(
        loader=FileSystemLoader(HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = tables.percent
    scripts = "\n".join((HERE / name).read_text(encoding="utf-8") for name in SCRIPTS)
    return environment.get_template("page.html").render(
        style=Markup((HERE / "page.css").read_text(encoding="utf-8")),
        script=Markup(scripts),
        **_header(run),
        **_curves(run),
        **_images(run),
    )


def _header(run: Run) -> dict:
    order = list(run.record.get("data", {}).get("counts", {}))
    return {
        "name": run.name,
        "equation": summary.equation(run.config),
        "facts": summary.facts(run),
        "headline": tables.headline(run.results, order, run.shown.split if run.shown else None),
        "tables": tables.result_tables(run.results, order) + _probe_tables(run, order),
        "eval_step": run.results.get("step"),
        "config": _pretty(run.config),
        "record": _pretty({key: value for key, value in run.record.items() if key != "config"}),
    }


def _probe_tables(run: Run, order: Sequence[str]) -> list[tables.Table]:
    """Of linear probes, which may have been fitted to another checkpoint than was evaluated."""
    found = tables.result_tables(run.probes, order)
    if not found or run.probes["step"] == run.results.get("step"):
        return found
    after = f" Fitted after {run.probes['step']:,} steps."
    return [replace(table, note=table.note + after) for table in found]


def _curves(run: Run) -> dict:
    training = curves.training_charts(run.history)
    evaluation = curves.evaluation_charts(run.history)
    drawn = {drawing.key: chart.hover_data(drawing) for drawing in (*training, *evaluation)}
    return {
        "training": [(drawing, chart.draw(drawing)) for drawing in training],
        "evaluation": [(drawing, chart.draw(drawing)) for drawing in evaluation],
        "chart_data": inline_json(drawn),
    }


def _images(run: Run) -> dict:
    if run.shown is None:
        return {"shown": None}
    near = Neighbours(run.shown)
    return {
        "shown": run.shown,
        "sheet": run.shown.sheet,
        "mosaic": galleries.mosaic(near),
        "queries": galleries.text_to_image(near),
        "lists": galleries.image_to_text(near),
        "agreement": ranked_lists.agreement(near),
        "gap": embedding_map.modality_gap(near),
        "map_data": inline_json(embedding_map.map_data(near)),
    }


def inline_json(value: object) -> Markup:
    """Return JSON that is safe inside ``<script>``: no ``<``, ``>`` or ``&`` remains to end the element."""
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False)
    for sign in "<>&\u2028\u2029":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return Markup(text)


def _pretty(value: object) -> str:
    return json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) if value else ""
