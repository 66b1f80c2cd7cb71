"""What the report reads: the files of a run folder, each of which may be missing, none of which may be broken.

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
class Shown:
    """The split that the report's images come from; embeddings float32, finite."""

    split: str
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
      history: lines of ``metrics.jsonl``.
      results: ``eval.json``, empty if missing.
      probes: ``linear_probe.json``, empty if missing.
      shown: ``embeddings.npz``, None if missing.
    """

    name: str
    record: Mapping[str, Any]
    history: list[dict[str, float]]
    results: Mapping[str, Any]
    probes: Mapping[str, Any]
    shown: Shown | None

    @property
    def config(self) -> Mapping[str, Any]:
        return self.record.get("config", {})


def read_run(run_dir: str | os.PathLike) -> Run:
    """Read what there is in ``run_dir``; a folder without a run, or with a broken file, is a `UserError`."""
    folder = Path(run_dir)
    if not folder.is_dir():
        raise UserError(f"no run folder {str(folder)!r}; give the --workdir of a training run.")
    if not any((folder / name).exists() for name in KNOWN_FILES):
        raise UserError(f"{str(folder)!r} holds no run: none of {', '.join(KNOWN_FILES)} is in it.")
    return Run(
        name=folder.resolve().name,
        record=_read_json(folder / CONFIG),
        history=read_metrics(str(folder)),
        results=_read_results(folder / EVAL_FILE),
        probes=_read_results(folder / PROBE_FILE),
        shown=_read_embeddings(folder / EMBEDDINGS_FILE),
    )


def _read_json(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        content = json.loads(path.read_text())
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error}); remove it or restore it, then run again.") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} holds a {type(content).__name__} instead of an object; remove it or restore it.")
    return content


def _read_results(path: Path) -> dict[str, Any]:
    results = _read_json(path)
    for part in ("metrics", "chance", "pixels"):
        values = results.setdefault(part, {}) if results else {}
        numbers = isinstance(values, dict) and all(isinstance(value, int | float) for value in values.values())
        if not numbers:
            raise UserError(f"{path} is damaged: {part!r} must map names to numbers; run the evaluation again.")
    return results


def _read_embeddings(path: Path) -> Shown | None:
    if not path.exists():
        return None
    try:
        with np.load(path) as arrays:
            shown = _shown(arrays)
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} is damaged ({error}); run the evaluation again.") from None
    return shown if len(shown.image_ids) and len(shown.texts) else None


def _shown(arrays: Mapping[str, np.ndarray]) -> Shown:
    labellings = {
        name: Labelling(
            names=tuple(arrays[f"{name}/names"].tolist()),
            image_labels=arrays[f"{name}/image_labels"],
            text_labels=arrays[f"{name}/text_labels"],
        )
        for name in arrays["labellings"].tolist()
    }
    shown = Shown(
        split=str(arrays["split"]),
        sheet=_sheet(arrays),
        image_embeds=_finite(arrays["image_embeds"]),
        image_ids=arrays["image_ids"],
        texts=tuple(arrays["texts"].tolist()),
        text_embeds=_finite(arrays["text_embeds"]),
        text_ids=arrays["text_ids"],
        labellings=labellings,
    )
    of_images = {len(shown.image_ids), len(shown.image_embeds)}
    of_texts = {len(shown.texts), len(shown.text_embeds), len(shown.text_ids)}
    of_images |= {len(labelling.image_labels) for labelling in labellings.values()}
    of_texts |= {len(labelling.text_labels) for labelling in labellings.values()}
    if len(of_images) > 1 or len(of_texts) > 1:
        raise ValueError("its arrays differ in length")
    return shown


def _sheet(arrays: Mapping[str, np.ndarray]) -> Sheet:
    height, width = arrays["cell"].tolist()
    return Sheet(arrays["sheet"].tobytes(), int(arrays["columns"]), len(arrays["image_ids"]), (height, width))


def _finite(embeds: np.ndarray) -> np.ndarray:
    # A zero row has no neighbours to show; NaN would spread into every sort.
    return np.nan_to_num(embeds.astype(np.float32), nan=0.0, posinf=0.0, neginf=0.0)
