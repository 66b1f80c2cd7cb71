"""Evaluate a checkpoint of a run, on the data it was trained beside, or weights from elsewhere, on data you name.

    python -m rankclip_jax.evaluate RUN_DIR [--step=best|N] [--splits=val,test_style]
    python -m rankclip_jax.evaluate WEIGHTS --config=configs/emoji.py [--config.data.KEY=VALUE] [--splits=...]
    python -m rankclip_jax.evaluate RUN_DIR|WEIGHTS --linear_probe [--config=FILE] [--splits=...]

Prints a table for each kind of metric, with the level of chance and of nearest pixels. Without --splits it
also writes ``eval.json`` and ``embeddings.npz`` into the run folder, as the end of training does; some of the
splits are only printed, so that the folder never holds a part of an evaluation.

WEIGHTS are an imported folder, which gets those files too, or directly a file, folder or hub id of OpenAI,
open_clip or transformers, whose results are only printed. Of their config `data` and `eval` are read. Whether they
were trained on these images nobody knows.

--linear_probe fits a linear classifier on features of the labelled training images of the data instead
(``evals/linear_probe.py``), and adds its accuracies to ``linear_probe.json``. For a run too --config may then name
other data.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from absl import flags
from ml_collections import ConfigDict

from rankclip_jax import cli
from rankclip_jax.config.record import load_run_config
from rankclip_jax.data.records import Dataset
from rankclip_jax.data.sources import SOURCES
from rankclip_jax.errors import UserError, lookup
from rankclip_jax.evals.probe_run import linear_probe
from rankclip_jax.evals.results import (
    EMBEDDINGS_FILE,
    EVAL_FILE,
    PROBE_FILE,
    write_embeddings,
    write_eval,
    write_probe,
)
from rankclip_jax.evals.run import evaluate_splits, references, shown_split
from rankclip_jax.inference.load import find_run, is_imported, is_run, load
from rankclip_jax.report.tables import Table, result_tables
from rankclip_jax.text_table import text_table
from rankclip_jax.weights.formats.source import is_source


def evaluate(
    path: str | Path, step: int | str | None = None, splits: Sequence[str] = (), config: ConfigDict | None = None
) -> dict:
    """Evaluate a checkpoint; with all splits (none named), write the results into the run folder too.

    Args:
      path: a run folder, its ``checkpoints`` folder, or one step in it; or weights from elsewhere.
      step: a step number, "best" (by the run's validation metric), or None for the newest.
      splits: names of evaluation splits.
      config: whose `data` and `eval` to use, for weights from elsewhere; a run has its own.

    Returns:
      what ``eval.json`` holds: {"step", "metrics", "chance", "pixels"}.

    Raises:
      UserError: no run there, no such checkpoint or split, or data other than the run's.
    """
    run, config, dataset = _data_of(path, config)
    chosen, names = splits or tuple(dataset.evals), config.eval.metrics
    for name in chosen:
        lookup(dataset.evals, name, "evaluation split")
    encoder = load(path, step)
    metrics, embeds = evaluate_splits(encoder, dataset, chosen, names)
    chance, pixels = references(dataset, chosen, names)
    if not splits and run is not None:
        write_eval(run, encoder.step, metrics, chance, pixels)
        shown = shown_split(dataset, config.eval.report_split)
        if shown is not None:
            write_embeddings(run, embeds[shown.name], shown)
    return {"step": encoder.step, "metrics": metrics, "chance": chance, "pixels": pixels}


def probe(
    path: str | Path, step: int | str | None = None, splits: Sequence[str] = (), config: ConfigDict | None = None
) -> dict:
    """Fit and evaluate linear probes; with all splits (none named), add the results to ``linear_probe.json``.

    Args, returns and raises as those of `evaluate`, but `config` may be given for a run, to probe it on other data:
    then the splits are named ``<data>/<split>``, after the folder the data are in.
    """
    own = config is None
    run, config, dataset = _data_of(path, config) if own else (_folder_of(path), config, _load_data(config))
    chosen = splits or tuple(dataset.evals)
    for name in chosen:
        lookup(dataset.evals, name, "evaluation split")
    encoder = load(path, step)
    found = linear_probe(encoder, dataset, chosen, config.eval.get("linear_probe", {}), config.data)
    if not own:
        prefix = Path(config.data.get("root", "")).name or dataset.name
        found = {part: {f"{prefix}/{key}": value for key, value in of.items()} for part, of in found.items()}
    results = {"step": encoder.step, **found}
    if not splits and run is not None:
        write_probe(run, results)
    return results


def _folder_of(path: str | Path) -> Path | None:
    """The folder that results belong in: a run's or an imported one."""
    return None if not is_run(path) and is_source(path) else find_run(Path(path).expanduser())[0]


def _data_of(path: str | Path, config: ConfigDict | None) -> tuple[Path | None, ConfigDict, Dataset]:
    """The folder that results belong in, if any, the config that says what to evaluate, and the data."""
    run = _folder_of(path)
    if run is None:
        return None, _given(path, config), _load_data(_given(path, config))
    record = load_run_config(str(run))
    if is_imported(record):
        return run, _given(path, config), _load_data(_given(path, config))
    if config is not None:
        raise UserError(f"{path} is a run, which is evaluated on the data it was trained beside: leave out --config.")
    config = ConfigDict(record["config"])
    return run, config, load_same_data(config, record["data"])


def _given(path: str | Path, config: ConfigDict | None) -> ConfigDict:
    if config is None:
        raise UserError(f"{path} is not of a run of ours, and says no data: add --config=configs/emoji.py or another.")
    return config


def _load_data(config: ConfigDict) -> Dataset:
    return lookup(SOURCES, config.data.name, "data source")(config.data)


def load_same_data(config: ConfigDict, saved: Mapping) -> Dataset:
    """The data set of a run's config.

    Raises:
      UserError: it is not the one of the training. Splits of other data may hold what the run was trained on,
        and no warning stays with a score; so it is not computed.
    """
    dataset = _load_data(config)
    if dataset.digest != saved["digest"]:
        raise UserError(
            f"data set {dataset.name!r} is not what this run was trained beside: its digest is {dataset.digest[:12]}, "
            f"the run's {saved['digest'][:12]}, so that its splits may hold training images. Restore that data."
        )
    return dataset


def describe(results: Mapping) -> str:
    """The results as tables of text."""
    order = tuple(dict.fromkeys(key.split("/")[0] for key in results["metrics"]))
    tables = [_describe_table(table) for table in result_tables(results, order)]
    return "\n\n".join([f"step {results['step']:,}", *tables])


def _describe_table(table: Table) -> str:
    headings = [column.heading for _, columns in table.groups for column in columns]
    groups = [title if i == 0 else "" for title, columns in table.groups for i in range(len(columns))]
    rows = [("split", "", *headings), *((row.split, row.predictor, *row.cells) for row in table.rows)]
    if any(groups):
        rows.insert(0, ("", "", *groups))
    title = f"{table.title}. {table.note}" if table.note else table.title
    return f"{title}\n{text_table(rows)}"


def define_flags() -> None:
    """Define the command's flags."""
    flags.DEFINE_string("step", None, "which checkpoint: a step, or best; the newest if not given")
    cli.define_config(required=False)
    flags.DEFINE_list("splits", [], "evaluation splits to print the metrics of; all of them if not given")
    flags.DEFINE_boolean("linear_probe", False, "fit linear probes on the labelled training images instead")


def main(argv: list[str]) -> None:
    """Evaluate and print."""
    if len(argv) != 2:
        raise UserError(f"expected one run folder, found {len(argv) - 1}: python -m rankclip_jax.evaluate RUN_DIR")
    given = flags.FLAGS
    measure = probe if given.linear_probe else evaluate
    print(describe(measure(argv[1], given.step, given.splits, given.config)))
    if not given.splits and is_run(argv[1]):
        written = PROBE_FILE if given.linear_probe else f"{EVAL_FILE} and {EMBEDDINGS_FILE}"
        print(f"\n{written} written; python -m rankclip_jax.report {argv[1]} draws them anew")


if __name__ == "__main__":
    define_flags()
    cli.run(main, positional=True)
