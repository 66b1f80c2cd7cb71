"""The files of a run folder that the report reads. Each may be missing; a damaged one is an error.

Letters: N images, M texts, D embedding, K classes.
"""

import json
import os
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rankclip_jax.errors import UserError
from rankclip_jax.evals.results import EMBEDDINGS_FILE, EVAL_FILE, PROBE_FILE
from rankclip_jax.report.sprites import Sheet
from rankclip_jax.run_folder import CONFIG, METRICS, read_metrics

KNOWN_FILES = (CONFIG, METRICS, EVAL_FILE, PROBE_FILE, EMBEDDINGS_FILE)


@dataclass(frozen=True)
class Labelling:
    """Class names [K] and the label of each image [N] and text [M]."""

    names: tuple[str, ...]
    image_labels: np.ndarray
    text_labels: np.ndarray


@dataclass(frozen=True)
class ReportSplit:
    """The split that the report shows, with N images and M texts.

    Attributes:
      sheet: thumbnails of the N images.
      image_embeds: float32 [N, D], finite.
      image_ids: int [N]; an image and a text match if their ids are equal.
      texts: captions.
      text_embeds: float32 [M, D], finite.
      text_ids: int [M].
      labellings: by name.
    """

    name: str
    sheet: Sheet
    image_embeds: np.ndarray
    image_ids: np.ndarray
    texts: tuple[str, ...]
    text_embeds: np.ndarray
    text_ids: np.ndarray
    labellings: Mapping[str, Labelling]


@dataclass(frozen=True)
class Run:
    """A run folder in memory.

    Attributes:
      name: name of the folder.
      record: ``config.json``, empty if missing.
      history: rows of ``metrics.jsonl``, in order.
      results: ``eval.json``, empty if missing.
      probes: ``linear_probe.json``, empty if missing.
      split: ``embeddings.npz``, None if missing or without images.
    """

    name: str
    record: Mapping[str, Any]
    history: list[dict[str, float]]
    results: Mapping[str, Any]
    probes: Mapping[str, Any]
    split: ReportSplit | None

    @property
    def config(self) -> Mapping[str, Any]:
        return self.record.get("config", {})


def read_run(run_dir: str | os.PathLike) -> Run:
    """Read the files that exist in ``run_dir``.

    Raises:
      UserError: the folder is missing or holds no run, or a file is damaged.
    """
    folder = Path(run_dir)
    if not folder.is_dir():
        raise UserError(f"no run folder {str(folder)!r}; pass the --workdir of a training run.")
    if not any((folder / name).exists() for name in KNOWN_FILES):
        raise UserError(f"{str(folder)!r} holds no run: it has none of the files {', '.join(KNOWN_FILES)}.")
    return Run(
        name=folder.resolve().name,
        record=_read_json(folder / CONFIG),
        history=read_metrics(str(folder)),
        results=_read_results(folder / EVAL_FILE),
        probes=_read_results(folder / PROBE_FILE),
        split=_read_embeddings(folder / EMBEDDINGS_FILE),
    )


def _read_json(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        content = json.loads(path.read_text())
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error}); restore or remove it, then run again.") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} holds a {type(content).__name__} instead of an object; restore or remove it.")
    return content


def _read_results(path: Path) -> dict[str, Any]:
    results = _read_json(path)
    for part in ("metrics", "chance", "pixels"):
        values = results.setdefault(part, {}) if results else {}
        numbers = isinstance(values, dict) and all(isinstance(value, int | float) for value in values.values())
        if not numbers:
            raise UserError(f"{path} is damaged: {part!r} must map names to numbers; run the evaluation again.")
    return results


def _read_embeddings(path: Path) -> ReportSplit | None:
    if not path.exists():
        return None
    try:
        with np.load(path) as arrays:
            split = _report_split(arrays)
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} is damaged ({error}); run the evaluation again.") from None
    return split if len(split.image_ids) and len(split.texts) else None


def _report_split(arrays: Mapping[str, np.ndarray]) -> ReportSplit:
    split = ReportSplit(
        name=str(arrays["split"]),
        sheet=_sheet(arrays),
        image_embeds=_finite(arrays["image_embeds"]),
        image_ids=arrays["image_ids"],
        texts=tuple(arrays["texts"].tolist()),
        text_embeds=_finite(arrays["text_embeds"]),
        text_ids=arrays["text_ids"],
        labellings={name: _labelling(arrays, name) for name in arrays["labellings"].tolist()},
    )
    image_lengths = {len(split.image_ids), len(split.image_embeds)}
    text_lengths = {len(split.texts), len(split.text_embeds), len(split.text_ids)}
    image_lengths |= {len(labelling.image_labels) for labelling in split.labellings.values()}
    text_lengths |= {len(labelling.text_labels) for labelling in split.labellings.values()}
    if len(image_lengths) > 1 or len(text_lengths) > 1:
        raise ValueError("its arrays differ in length")
    return split


def _labelling(arrays: Mapping[str, np.ndarray], name: str) -> Labelling:
    names = tuple(arrays[f"{name}/names"].tolist())
    return Labelling(names, arrays[f"{name}/image_labels"], arrays[f"{name}/text_labels"])


def _sheet(arrays: Mapping[str, np.ndarray]) -> Sheet:
    height, width = arrays["cell"].tolist()
    return Sheet(arrays["sheet"].tobytes(), int(arrays["columns"]), len(arrays["image_ids"]), (height, width))


def _finite(embeds: np.ndarray) -> np.ndarray:
    # NaN would make every sort order arbitrary; a zero embedding has cosine 0 with everything.
    return np.nan_to_num(embeds.astype(np.float32), nan=0.0, posinf=0.0, neginf=0.0)
