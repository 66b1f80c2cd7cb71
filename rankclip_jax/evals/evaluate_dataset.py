"""Evaluate a model on the splits of a data set: on some splits during training, on all splits at the end."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from ml_collections import ConfigDict
from tqdm import tqdm

from rankclip_jax.data.images.lazy import LazyImages
from rankclip_jax.data.records import Dataset, EvalSplit
from rankclip_jax.errors import UserError, lookup
from rankclip_jax.evals.embeddings import SplitEmbeddings
from rankclip_jax.evals.pixels import pixel_reference
from rankclip_jax.evals.registry import EVALS
from rankclip_jax.evals.results import write_embeddings, write_eval
from rankclip_jax.evals.split import chance_levels, embed_split, evaluate_embeddings, metric_names
from rankclip_jax.inference.encoder import Encoder
from rankclip_jax.parallel import processes


def check_names(config: ConfigDict, dataset: Dataset) -> None:
    """Check the names of splits, evaluations and metrics in `config.eval` and `config.checkpoint` before training.

    Raises:
      UserError: a name is unknown; the message names the config key and the known names.
    """
    if config.eval.train_splits and not dataset.evals:
        raise UserError(
            "there is nothing to evaluate: name pairs in config.data.val, hold some out by config.data.val_pairs=1000, "
            "or train without evaluation: --config.eval.train_splits='()' --config.checkpoint.best_metric=''."
        )
    during = [lookup(dataset.evals, name, "config.eval.train_splits split") for name in config.eval.train_splits]
    shown_split(dataset, config.eval.report_split)
    for name in config.eval.metrics:
        lookup(EVALS, name, "config.eval.metrics evaluation")
    best = config.checkpoint.best_metric
    if not best:
        return
    known = {name: None for split in during for name in metric_names(split, config.eval.metrics)}
    if not known:
        raise UserError(
            f"config.checkpoint.best_metric={best!r}, but nothing is evaluated during training: name splits in "
            "config.eval.train_splits and evaluations in config.eval.metrics, or set best_metric to ''."
        )
    lookup(known, best, "config.checkpoint.best_metric")


def shown_split(dataset: Dataset, name: str) -> EvalSplit | None:
    """Return the split that the report shows: `name`, or the last split if `name` is ""; None without splits."""
    if not name:
        return next(reversed(dataset.evals.values()), None)
    return lookup(dataset.evals, name, "config.eval.report_split split")


class Evaluated(NamedTuple):
    """Flat metrics ``<split>/<metric>``, and the embeddings of each split."""

    metrics: dict[str, float]
    embeds: dict[str, SplitEmbeddings]


def evaluate_splits(encoder: Encoder, dataset: Dataset, splits: Sequence[str], names: Sequence[str]) -> Evaluated:
    """Encode and evaluate some splits; every process gets the same metrics.

    Args:
      splits: names of splits of `dataset`.
      names: names of evaluations, keys of `EVALS`.
    """
    metrics, kept = {}, {}
    hidden = None if processes.is_main() else True  # None: shown on a terminal only
    for name in tqdm(splits, desc="evaluating", unit="split", leave=False, disable=hidden):
        split = lookup(dataset.evals, name, "evaluation split")
        embeds = embed_split(encoder, split, names)
        metrics |= evaluate_embeddings(embeds, split, names) | _unreadable(split)
        kept[name] = replace(embeds)  # a copy without the cached scores, which hold the embeddings in float64
    return Evaluated(metrics, kept)


def _unreadable(split: EvalSplit) -> dict[str, float]:
    """Return the number of images that could not be decoded and were replaced by white ones, if it is not 0."""
    if not isinstance(split.images, LazyImages):
        return {}
    # Each process decodes its own part of every batch.
    count = len(processes.union(split.images.unreadable))
    return {f"{split.name}/unreadable_images": float(count)} if count else {}


def evaluate_run(
    encoder: Encoder, dataset: Dataset, config, workdir: str | Path, step: int, done: Evaluated | None = None
) -> dict[str, float]:
    """Evaluate every split and write ``eval.json`` and ``embeddings.npz`` into `workdir`.

    Args:
      dataset: its training images are used for the pixel baseline.
      config: `config.eval`.
      workdir: run folder; only the main process writes.
      step: number of training steps of the encoder's weights.
      done: splits that were evaluated already, with the same weights; they are not evaluated again.

    Returns:
      flat metrics of all splits.
    """
    shown, splits = shown_split(dataset, config.report_split), tuple(dataset.evals)
    before = done or Evaluated({}, {})
    rest = evaluate_splits(encoder, dataset, [name for name in splits if name not in before.embeds], config.metrics)
    metrics, embeds = before.metrics | rest.metrics, before.embeds | rest.embeds
    if processes.is_main():
        chance, pixels = references(dataset, splits, config.metrics)
        write_eval(workdir, {"step": step, "metrics": metrics, "chance": chance, "pixels": pixels})
        if shown is not None:
            write_embeddings(workdir, embeds[shown.name], shown)
    return metrics


def references(
    dataset: Dataset, splits: Sequence[str], names: Sequence[str]
) -> tuple[dict[str, float], dict[str, float]]:
    """Return the model-free baselines: the chance level, and pixel nearest neighbour.

    Arguments as for `evaluate_splits`. The pixel baseline is empty if the concepts of the training images are unknown.
    """
    chance, pixels = {}, {}
    for split in (dataset.evals[name] for name in splits):
        chance |= chance_levels(split, names)
        if dataset.train.concept_ids is not None:
            pixels |= pixel_reference(split, dataset.train.images, dataset.train.concept_ids)
    return chance, pixels
