"""The whole page: one self-contained HTML file."""

import json
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from rankclip_jax.files.atomic import replaced_file
from rankclip_jax.report import chart, curves, embedding_map, galleries, ranked_lists, summary, tables
from rankclip_jax.report.neighbours import Neighbours
from rankclip_jax.report.run_folder import Run, read_run
from rankclip_jax.run_folder import make_writable

REPORT_FILE = "report.html"
HERE = Path(__file__).parent
UPLOT = HERE / "vendor" / "uplot"
SCRIPTS = ("theme.js", "charts.js", "cutout.js", "map.js", "explorer.js")


def write_report(run_dir: str | os.PathLike, out: str | os.PathLike | None = None) -> Path:
    """Write ``report.html`` into the run folder (atomically) and return its path.

    It may be called during a run: sections without data say so.

    Args:
      run_dir: the run folder.
      out: folder for the page, instead of the run folder. Results of ``evaluate --out`` in it are shown.

    Raises:
      UserError: the folder holds no run, a file is damaged, or the folder for the page is not writable.
    """
    page = render(read_run(run_dir, out))
    folder = Path(out or run_dir)
    make_writable(folder, str(folder), "add --out=DIR for the page")
    path = folder / REPORT_FILE
    with replaced_file(path) as file:
        file.write(page)
    return path


def render(run: Run) -> str:
    """Return the page as text."""
    environment = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["percent"] = tables.percent
    # uPlot's license must be part of every copy.
    uplot = f"/*\n{_read(UPLOT / 'LICENSE')}*/\n{_read(UPLOT / 'uPlot.iife.min.js')}"
    return environment.get_template("page.html").render(
        style=Markup(_read(UPLOT / "uPlot.min.css") + "\n" + _read(HERE / "page.css")),
        script=Markup("\n".join([uplot, *(_read(HERE / name) for name in SCRIPTS)])),
        **_header(run),
        **_curves(run),
        **_images(run),
    )


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def _header(run: Run) -> dict:
    order = list(run.record.get("data", {}).get("counts", {}))
    return {
        "name": run.name,
        "equation": run.record.get("objective_equation"),
        "facts": summary.facts(run),
        "headline": tables.headline(run.results, order, run.split.name if run.split else None),
        "tables": tables.result_tables(run.results, order) + _probe_tables(run, order) + _other_tables(run),
        "eval_step": run.results.get("step"),
        "config": _pretty(run.config),
        "record": _pretty({key: value for key, value in run.record.items() if key != "config"}),
    }


def _probe_tables(run: Run, order: Sequence[str]) -> list[tables.Table]:
    """Return the tables of the linear probes; their notes name the step if it is not the evaluation's."""
    found = tables.result_tables(run.probes, order)
    if not found or run.probes["step"] == run.results.get("step"):
        return found
    after = f" Fitted after {run.probes['step']:,} steps."
    return [replace(table, note=table.note + after) for table in found]


def _other_tables(run: Run) -> list[tables.Table]:
    """Return the tables of the results on other data than the run's."""
    return [
        replace(table, title=f"{table.title} on {name}", note=f"{table.note} Step {results['step']:,}.".strip())
        for name, results in run.others.items()
        for table in tables.result_tables(results)
    ]


def _curves(run: Run) -> dict:
    sections = {
        "training": curves.training_charts(run.history),
        "diagnostics": curves.diagnostic_charts(run.history),
        "evaluation": curves.evaluation_charts(run.history),
    }
    drawn = {each.key: chart.chart_data(each) for charts in sections.values() for each in charts}
    shown = {name: [(each, chart.summary(each)) for each in charts] for name, charts in sections.items()}
    return {**shown, "chart_data": inline_json(drawn)}


def _images(run: Run) -> dict:
    if run.split is None:
        return {"split": None}
    near = Neighbours(run.split)
    return {
        "split": run.split,
        "sheet": run.split.sheet,
        "mosaic": galleries.mosaic(near),
        "text_queries": galleries.text_to_image(near),
        "image_queries": galleries.image_to_text(near),
        "agreement": ranked_lists.agreement(near),
        "gap": embedding_map.modality_gap(near),
        "map_data": inline_json(embedding_map.map_data(near)),
    }


def inline_json(value: object) -> Markup:
    """Return JSON for use inside ``<script>``: signs that could end the script, such as ``<``, are escaped."""
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False)
    for sign in "<>&\u2028\u2029":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return Markup(text)


def _pretty(value: object) -> str:
    return json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) if value else ""
