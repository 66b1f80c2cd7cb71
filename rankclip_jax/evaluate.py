"""Evaluate a run on its own data, or imported or foreign weights on data of your choice.

    python -m rankclip_jax.evaluate RUN_DIR [--step=best|N] [--splits=val,test_style]
    python -m rankclip_jax.evaluate WEIGHTS --config=configs/emoji.py [--config.data.KEY=VALUE] [--splits=...]
    python -m rankclip_jax.evaluate RUN_DIR|WEIGHTS --linear_probe [--config=FILE] [--splits=...]

The command prints one table for each kind of metric, with the chance level and the pixel baseline. Without --splits it
also writes ``eval.json`` and ``embeddings.npz`` into the folder, like training at its end. With --splits it only prints
the results, because these files always hold a complete evaluation.

WEIGHTS is an imported folder, which gets the same files, or weights of OpenAI, open_clip or transformers (a file, a
folder or a hub id), whose results are only printed. The sections `data` and `eval` of --config are used. The training
data of such weights are unknown and may contain these images.

With --linear_probe, the command instead fits a linear classifier on features of the labelled training images
(``evals/linear_probe.py``), and adds its accuracies to ``linear_probe.json``. A run then accepts --config too, to probe
it on other data.
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
from rankclip_jax.evals.evaluate_dataset import evaluate_splits, references, shown_split
from rankclip_jax.evals.probe_dataset import linear_probe
from rankclip_jax.evals.results import EMBEDDINGS_FILE, EVAL_FILE, PROBE_FILE, write_embeddings, write_eval, write_probe
from rankclip_jax.inference.load import find_run, is_imported, is_run, load
from rankclip_jax.report.tables import Table, result_tables
from rankclip_jax.text_table import text_table
from rankclip_jax.weights.formats.source import is_source


def evaluate(
    path: str | Path, step: int | str | None = None, splits: Sequence[str] = (), config: ConfigDict | None = None
) -> dict:
    """Evaluate a checkpoint; if no splits are named, evaluate all and write the results into the folder too.

    Args:
      path: a run folder, its ``checkpoints`` folder, or one step in it; or imported or foreign weights.
      step: the number of a step, "best" (by the run's validation metric), or None for the newest.
      splits: names of evaluation splits.
      config: for imported or foreign weights only; its `data` and `eval` are used. A run has its own config.

    Returns:
      the content of ``eval.json``: {"step", "metrics", "chance", "pixels"}.

    Raises:
      UserError: the run, the checkpoint or a split does not exist, or the data are not the run's.
    """
    folder, config, dataset = _folder_and_data(path, config)
    chosen, names = _chosen(dataset, splits), config.eval.metrics
    encoder = load(path, step)
    metrics, embeds = evaluate_splits(encoder, dataset, chosen, names)
    chance, pixels = references(dataset, chosen, names)
    if not splits and folder is not None:
        write_eval(folder, encoder.step, metrics, chance, pixels)
        shown = shown_split(dataset, config.eval.report_split)
        if shown is not None:
            write_embeddings(folder, embeds[shown.name], shown)
    return {"step": encoder.step, "metrics": metrics, "chance": chance, "pixels": pixels}


def probe(
    path: str | Path, step: int | str | None = None, splits: Sequence[str] = (), config: ConfigDict | None = None
) -> dict:
    """Fit and evaluate linear probes; if no splits are named, add the results to ``linear_probe.json`` too.

    Arguments, result and errors are those of `evaluate`, but `config` may also give other data for a run. With
    `config`, splits are named ``<data>/<split>``, after the folder of the data.
    """
    prefix = ""
    if config is None:
        folder, config, dataset = _folder_and_data(path, None)
    else:
        folder, dataset = _folder_of(path), _load_data(config)
        prefix = f"{Path(config.data.root).name or dataset.name}/"
    chosen = _chosen(dataset, splits)
    encoder = load(path, step)
    found = linear_probe(encoder, dataset, chosen, config.eval.linear_probe, config.data)
    named = {part: {prefix + key: value for key, value in values.items()} for part, values in found.items()}
    results = {"step": encoder.step, **named}
    if not splits and folder is not None:
        write_probe(folder, results)
    return results


def _chosen(dataset: Dataset, splits: Sequence[str]) -> Sequence[str]:
    """Return `splits`, or all splits if it is empty; raise `UserError` for an unknown name."""
    for name in splits:
        lookup(dataset.evals, name, "evaluation split")
    return splits or tuple(dataset.evals)


def _folder_of(path: str | Path) -> Path | None:
    """Return the run folder or imported folder, into which results are written; None for foreign weights."""
    return None if not is_run(path) and is_source(path) else find_run(Path(path).expanduser())[0]


def _folder_and_data(path: str | Path, config: ConfigDict | None) -> tuple[Path | None, ConfigDict, Dataset]:
    """Return the folder for the results (None for foreign weights), the config, and the data set."""
    folder = _folder_of(path)
    record = load_run_config(str(folder)) if folder is not None else None
    if record is None or is_imported(record):
        if config is None:
            raise UserError(f"{path} is not a run, so it names no data: add --config=configs/emoji.py or another.")
        return folder, config, _load_data(config)
    if config is not None:
        raise UserError(f"{path} is a run, which is evaluated on its own data: leave out --config.")
    config = ConfigDict(record["config"])
    return folder, config, load_same_data(config, record["data"])


def _load_data(config: ConfigDict) -> Dataset:
    return lookup(SOURCES, config.data.name, "data source")(config.data)


def load_same_data(config: ConfigDict, saved: Mapping) -> Dataset:
    """Return the data set of a run's config.

    Raises:
      UserError: the data have changed since training: their splits may now contain training images.
    """
    dataset = _load_data(config)
    if dataset.digest != saved["digest"]:
        raise UserError(
            f"data set {dataset.name!r} has changed since this run was trained: its digest is {dataset.digest[:12]}, "
            f"the run's {saved['digest'][:12]}; its splits may contain training images. Restore that data."
        )
    return dataset


def describe(results: Mapping) -> str:
    """Return the results as text tables."""
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
    flags.DEFINE_string("step", None, "checkpoint to evaluate: the number of a step, or best; default: the newest")
    cli.define_config(required=False)
    flags.DEFINE_list("splits", [], "evaluation splits whose metrics are printed; default: all of them")
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
        print(f"\n{written} written; python -m rankclip_jax.report {argv[1]} updates the report")


if __name__ == "__main__":
    define_flags()
    cli.run(main, positional=True)
