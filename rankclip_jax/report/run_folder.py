"""The files of a run folder that the report reads. Each may be missing; a damaged one is an error.

Letters: N images, M texts, D embedding, K classes.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rankclip_jax.checkpoints.run_copy import read_record
from rankclip_jax.errors import UserError
from rankclip_jax.evals.results import EMBEDDINGS_FILE, EVAL_FILE, OTHER_FOLDER, PROBE_FILE, read_results, strings_of
from rankclip_jax.files.json_files import regular_size
from rankclip_jax.report.sprites import Sheet
from rankclip_jax.run_folder import CHECKPOINTS, CONFIG, METRICS, read_metrics

LARGEST = 1 << 30  # bytes of arrays in memory
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
      others: the results on other data than the run's, by the name of the data.
      split: ``embeddings.npz``, None if missing or without images.
    """

    name: str
    record: Mapping[str, Any]
    history: list[dict[str, float]]
    results: Mapping[str, Any]
    probes: Mapping[str, Any]
    others: Mapping[str, Mapping[str, Any]]
    split: ReportSplit | None

    @property
    def config(self) -> Mapping[str, Any]:
        return self.record.get("config", {})


def read_run(run_dir: str | os.PathLike, results: str | os.PathLike | None = None) -> Run:
    """Read the files that exist in ``run_dir``.

    Args:
      run_dir: the run folder.
      results: another folder with results of ``evaluate --out``; its files are read in place of the run's.

    Raises:
      UserError: the folder is missing or holds no run, or a file is damaged.
    """
    folder = Path(run_dir)
    if not folder.is_dir():
        raise UserError(f"no run folder {str(folder)!r}; pass the --workdir of a training run.")
    if not any((folder / name).exists() for name in (*KNOWN_FILES, CHECKPOINTS)):
        raise UserError(f"{str(folder)!r} holds no run: it has none of the files {', '.join(KNOWN_FILES)}.")
    folders = [folder] if results is None else [folder, Path(results)]

    def last(name: str) -> Path:
        return next((path for path in (each / name for each in reversed(folders)) if path.exists()), folder / name)

    others = [path for each in folders for path in sorted(each.glob(f"{OTHER_FOLDER}/*.json"))]
    return Run(
        name=folder.resolve().name,
        record=read_record(folder) or {},
        history=read_metrics(folder),
        results=read_results(last(EVAL_FILE)) or {},
        probes=read_results(last(PROBE_FILE)) or {},
        others={path.stem: read_results(path) or {} for path in others},
        split=_read_embeddings(last(EMBEDDINGS_FILE)),
    )


def _read_embeddings(path: Path) -> ReportSplit | None:
    if not path.exists():
        return None
    try:
        regular_size(path, "move it away")
        with np.load(path) as arrays:
            size = sum(member.file_size for member in arrays.zip.infolist())
            if size > LARGEST:
                raise ValueError(f"it would take {size >> 20:,} MiB of memory")
            split = _report_split(arrays)
    except UserError:
        raise
    except Exception as error:  # numpy, zipfile and zlib raise many types on damaged files
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{path} is damaged ({reason[:120]}); run the evaluation again.") from None
    return split if len(split.image_ids) and len(split.texts) else None


def _report_split(arrays: Mapping[str, np.ndarray]) -> ReportSplit:
    strings = strings_of(arrays)
    image_ids, texts = _integers(arrays, "image_ids"), tuple(strings["texts"])
    n, m = len(image_ids), len(texts)
    images, text_embeds = _embeds(arrays, "image_embeds", n), _embeds(arrays, "text_embeds", m)
    if images.shape[1] != text_embeds.shape[1]:
        raise ValueError("its embeddings differ in width")
    return ReportSplit(
        name=strings["split"],
        sheet=_sheet(arrays, n),
        image_embeds=images,
        image_ids=image_ids,
        texts=texts,
        text_embeds=text_embeds,
        text_ids=_integers(arrays, "text_ids", m),
        labellings={name: _labelling(arrays, name, tuple(names), n, m) for name, names in strings["classes"].items()},
    )


def _labelling(arrays: Mapping[str, np.ndarray], name: str, names: tuple[str, ...], n: int, m: int) -> Labelling:
    labelling = Labelling(
        names, _integers(arrays, f"{name}/image_labels", n), _integers(arrays, f"{name}/text_labels", m)
    )
    for labels in (labelling.image_labels, labelling.text_labels):
        if len(labels) and not (labels.min() >= 0 and labels.max() < len(names)):
            raise ValueError(f"a label of {name} is outside its {len(names)} classes")
    return labelling


def _sheet(arrays: Mapping[str, np.ndarray], count: int) -> Sheet:
    columns, (height, width) = int(arrays["columns"]), arrays["cell"].tolist()
    if min(columns, height, width) < 1:
        raise ValueError("its thumbnails have no size")
    return Sheet(arrays["sheet"].tobytes(), columns, count, (height, width))


def _integers(arrays: Mapping[str, np.ndarray], name: str, length: int | None = None) -> np.ndarray:
    array = arrays[name]
    if array.ndim != 1 or array.dtype.kind not in "iu" or length not in (None, len(array)):
        raise ValueError(f"{name} is {array.dtype} {list(array.shape)}, or differs from the others in length")
    return array


def _embeds(arrays: Mapping[str, np.ndarray], name: str, length: int) -> np.ndarray:
    array = arrays[name]
    if array.ndim != 2 or array.dtype.kind != "f" or len(array) != length:
        raise ValueError(f"{name} is {array.dtype} {list(array.shape)}, or differs from the others in length")
    return _finite(array)


def _finite(embeds: np.ndarray) -> np.ndarray:
    # NaN would make every sort order arbitrary; a zero embedding has cosine 0 with everything.
    return np.nan_to_num(embeds.astype(np.float32), nan=0.0, posinf=0.0, neginf=0.0)
