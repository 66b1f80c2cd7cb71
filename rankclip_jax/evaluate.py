"""Evaluate a run on its own data or on other data, or imported or foreign weights.

    python -m rankclip_jax.evaluate RUN_DIR [--step=best|N] [--splits=val,test_style] [--out=DIR]
    python -m rankclip_jax.evaluate RUN_DIR|WEIGHTS --config=configs/emoji.py [--config.data.KEY=VALUE] [--splits=...]
    python -m rankclip_jax.evaluate RUN_DIR|WEIGHTS --linear_probe [--config=FILE] [--splits=...]

The command prints one table for each kind of metric, with the chance level and the pixel baseline. Without --splits it
also writes the results; docs/runs.md lists the files. With --splits it only prints them, because these files always
hold a complete evaluation.

The sections `data` and `eval` of --config are used. WEIGHTS is an imported folder, which gets the same files as a run,
or weights of OpenAI, open_clip or transformers (a file, a folder or a hub id), whose results are only printed. The
training data of such weights are unknown and may contain these images.

With --linear_probe, the command instead fits a linear classifier on features of the labelled training images
(``evals/linear_probe.py``), and adds its accuracies to ``linear_probe.json``.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from absl import flags
from ml_collections import ConfigDict

from rankclip_jax import cli, compilation_cache
from rankclip_jax.checkpoints.run_copy import read_record
from rankclip_jax.data.records import Dataset
from rankclip_jax.data.sources import SOURCES
from rankclip_jax.errors import UserError, lookup
from rankclip_jax.evals.evaluate_dataset import evaluate_splits, references, shown_split
from rankclip_jax.evals.probe_dataset import linear_probe
from rankclip_jax.evals.results import (
    EMBEDDINGS_FILE,
    EVAL_FILE,
    OTHER_FOLDER,
    PARTS,
    PROBE_FILE,
    free_name,
    write_embeddings,
    write_eval,
    write_other,
    write_probe,
)
from rankclip_jax.inference.load import find_run, is_imported, is_run, load
from rankclip_jax.report.tables import Table, result_tables
from rankclip_jax.run_folder import make_writable
from rankclip_jax.terminal.show import show
from rankclip_jax.terminal.tables import text_table
from rankclip_jax.weights.formats.source import is_source

Tell = Callable[[dict], None]


class Target(NamedTuple):
    """What to evaluate on, and where the results go.

    Attributes:
      folder: folder for the results; None if they are only printed.
      config: its sections `data` and `eval` are used.
      dataset: the data.
      other: name of the data in results; "" for a run's own data.
      has_own_data: whether the weights are those of a run. Others may have `eval.json` for any data.
    """

    folder: Path | None
    config: ConfigDict
    dataset: Dataset
    other: str
    has_own_data: bool


def evaluate(
    path: str | Path,
    step: int | str | None = None,
    splits: Sequence[str] = (),
    config: ConfigDict | None = None,
    out: str | Path | None = None,
    tell: Tell | None = None,
) -> dict:
    """Evaluate a checkpoint; if no splits are named, evaluate all and write the results too.

    Args:
      path: a run folder, its ``checkpoints`` folder, or one step in it; or imported or foreign weights.
      step: the number of a step, "best" (by the run's validation metric), or None for the newest.
      splits: names of evaluation splits.
      config: other data for a run, or the data for imported or foreign weights; `data` and `eval` are used.
      out: folder for the results, instead of the run folder or imported folder.
      tell: called with the results before they are written, which may fail on a full disk.

    Returns:
      the content of ``eval.json``: {"step", "metrics", "chance", "pixels"}. On other data than a run's own, splits are
      named ``NAME/<split>``, and the results are written into ``eval_on/NAME.json``.

    Raises:
      UserError: the run, the checkpoint or a split does not exist, the data have changed, or the folder for the results
        is not writable or holds another run.
    """
    target, chosen = _begin(path, config, out, splits)
    dataset, names = target.dataset, target.config.eval.metrics
    encoder = load(path, step)
    metrics, embeds = evaluate_splits(encoder, dataset, chosen, names)
    other = target.other if target.has_own_data else ""
    results = _named(other, encoder.step, metrics, *references(dataset, chosen, names))
    if tell is not None:
        tell(results)
    if target.folder is not None and other:
        write_other(target.folder, other, dataset.digest, results)
    elif target.folder is not None:
        write_eval(target.folder, results)
        shown = shown_split(dataset, target.config.eval.report_split)
        if shown is not None:
            write_embeddings(target.folder, embeds[shown.name], shown)
    return results


def probe(
    path: str | Path,
    step: int | str | None = None,
    splits: Sequence[str] = (),
    config: ConfigDict | None = None,
    out: str | Path | None = None,
    tell: Tell | None = None,
) -> dict:
    """Fit and evaluate linear probes; if no splits are named, add the results to ``linear_probe.json`` too.

    Arguments, result and errors are those of `evaluate`.
    """
    target, chosen = _begin(path, config, out, splits)
    config = target.config
    encoder = load(path, step)
    found = linear_probe(encoder, target.dataset, chosen, config.eval.linear_probe, config.data)
    results = _named(target.other, encoder.step, *(found[part] for part in PARTS))
    if tell is not None:
        tell(results)
    if target.folder is not None:
        write_probe(target.folder, results)
    return results


def _named(name: str, step: int, *parts: Mapping[str, float]) -> dict:
    """Return results as in ``eval.json``, with the name of other data before the names of the splits."""
    prefix = f"{name}/" if name else ""
    named = ({prefix + key: value for key, value in part.items()} for part in parts)
    return {"step": step, **dict(zip(PARTS, named, strict=True))}


def _chosen(dataset: Dataset, splits: Sequence[str]) -> Sequence[str]:
    """Return `splits`, or all splits if it is empty; raise `UserError` for an unknown name."""
    for name in splits:
        lookup(dataset.evals, name, "evaluation split")
    return splits or tuple(dataset.evals)


def _begin(
    path: str | Path, config: ConfigDict | None, out: str | Path | None, splits: Sequence[str]
) -> tuple[Target, Sequence[str]]:
    """Return what to evaluate on and the names of the splits. Enable the compilation cache if the config says so."""
    target = _target(path, config, out, splits)
    chosen = _chosen(target.dataset, splits)
    if target.config.get("compilation_cache", True):
        compilation_cache.enable()
    return target, chosen


def _target(path: str | Path, config: ConfigDict | None, out: str | Path | None, splits: Sequence[str]) -> Target:
    """Read the data, and check that the results can be written; with named `splits` they are not written."""
    folder = None if not is_run(path) and is_source(path) else find_run(Path(path))[0]
    record = read_record(folder) if folder is not None else None
    is_trained = record is not None and not is_imported(record)
    if config is None and not is_trained:
        raise UserError(f"{path} is not a run, so it names no data: add --config=configs/emoji.py or another.")
    written = None if splits else out or folder
    if out and is_run(out) and (folder is None or Path(out).resolve() != folder.resolve()):
        raise UserError(f"--out={out} is the folder of another run, whose results would be replaced: use another.")
    if written is not None:
        make_writable(written, str(written), "add --out=DIR for the results, or --splits=NAME,... to print them only")
    if config is None:
        config = ConfigDict(record["config"])
        return Target(written, config, load_same_data(config, record["data"]), "", True)
    dataset = _load_data(config)
    is_own = is_trained and dataset.digest == record["data"].get("digest")
    other = "" if is_own else data_name(config, dataset)
    if other and is_trained and written is not None:
        other = free_name(written, other, dataset.digest)
    return Target(written, config, dataset, other, is_trained)


def data_name(config: ConfigDict, dataset: Dataset) -> str:
    """Return a name of data for results: the last folder of `config.data.root`, or the format."""
    path = re.split(r"[?#]", config.data.get("root", ""))[0].rstrip("/\\")
    last = re.split(r"[/\\@]", path)[-1]  # no user or token of a URL
    return re.sub(r"[^\w.-]+", "_", last).strip("._") or dataset.name


def _load_data(config: ConfigDict) -> Dataset:
    return lookup(SOURCES, config.data.name, "data source")(config.data)


def load_same_data(config: ConfigDict, saved: Mapping) -> Dataset:
    """Return the data set of a run's config.

    Raises:
      UserError: the data have changed since training: their splits may now contain training images.
    """
    dataset = _load_data(config)
    digest = saved.get("digest", "")
    if dataset.digest != digest:
        raise UserError(
            f"data set {dataset.name!r} has changed since this run was trained: its digest is {dataset.digest[:12]}, "
            f"the run's {digest[:12]}; its splits may contain training images. Restore that data, or add --config=FILE "
            "to evaluate on it as other data."
        )
    return dataset


def describe(results: Mapping) -> str:
    """Return the results as text tables."""
    order = tuple(dict.fromkeys(key.rpartition("/")[0] for key in results["metrics"]))
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
    flags.DEFINE_string("out", None, "folder for the results; default: the run folder")


def main(argv: list[str]) -> None:
    """Evaluate and print."""
    if len(argv) != 2:
        raise UserError(f"expected one run folder, found {len(argv) - 1}: python -m rankclip_jax.evaluate RUN_DIR")
    given, path = flags.FLAGS, argv[1]
    measure = probe if given.linear_probe else evaluate
    results = measure(path, given.step, given.splits, given.config, given.out, lambda found: show(describe(found)))
    if not given.splits and (given.out or is_run(path)):
        show(f"\n{_written(results, given.linear_probe)} written" + _hint(path, given.out))


def _written(results: Mapping, is_probe: bool) -> str:
    """The names of the files that hold the results."""
    if is_probe:
        return PROBE_FILE
    other = {key.rpartition("/")[0].rpartition("/")[0] for key in results["metrics"]} - {""}
    return f"{OTHER_FOLDER}/{other.pop()}.json" if other else f"{EVAL_FILE} and {EMBEDDINGS_FILE}"


def _hint(path: str, out: str | None) -> str:
    if not is_run(path):
        return ""
    return f"; python -m rankclip_jax.report {path}{f' --out={out}' if out else ''} updates the report"


if __name__ == "__main__":
    define_flags()
    cli.run(main, positional=True)
