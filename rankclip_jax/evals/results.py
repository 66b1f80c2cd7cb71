"""The result files in the run folder: evaluations write them, the report reads them.

Letters: N images, M texts, D embedding, K classes, h x w pixels of a thumbnail.

* ``eval.json``: ``{"step", "metrics", "chance", "pixels"}``; the last three map ``<split>/<metric>`` to floats.
* ``eval_on/NAME.json``: the same for other data than the run's, with their ``"digest"``; splits are ``NAME/<split>``.
* ``linear_probe.json``: the same for linear probes; splits of other data than the run's are ``NAME/<split>``.
* ``embeddings.npz``, for one split: ``image_embeds`` float16 [N, D]; ``text_embeds`` float16 [M, D]; ``image_ids`` [N];
  ``text_ids`` [M]; ``sheet`` uint8, the bytes of a WebP image that holds the N thumbnails row by row; ``columns``, the
  number of thumbnails in a row; ``cell``, their size (h, w); ``strings`` uint8, the bytes of JSON:
  ``{"split": name, "texts": [M], "classes": {labelling: [K]}}``; for each labelling ``<name>/image_labels`` [N] and
  ``<name>/text_labels`` [M]. (An array of strings would take the length of the longest one for each of them.)
"""

import io
import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from rankclip_jax.data.images.resize import resize_and_crop
from rankclip_jax.data.records import EvalSplit
from rankclip_jax.errors import UserError
from rankclip_jax.evals.embeddings import SplitEmbeddings
from rankclip_jax.files.atomic import replaced_file
from rankclip_jax.files.json_files import EACH, misfit, read_json

EVAL_FILE = "eval.json"
PROBE_FILE = "linear_probe.json"
EMBEDDINGS_FILE = "embeddings.npz"
OTHER_FOLDER = "eval_on"
PARTS = ("metrics", "chance", "pixels")
LIKE = {"step": 0} | {part: {EACH: 0.0} for part in PARTS}  # the types in eval.json and linear_probe.json
MAX_KEPT = 1500
THUMBNAIL_SIDE = 64
SHEET_QUALITY = 80


def write_eval(folder: str | os.PathLike, results: Mapping[str, Any]) -> Path:
    """Write ``eval.json``, ``{"step", "metrics", "chance", "pixels"}``, and return its path."""
    return _write_json(Path(folder) / EVAL_FILE, results)


def write_other(folder: str | os.PathLike, name: str, digest: str, results: Mapping[str, Any]) -> Path:
    """Write the results on other data, with their digest, as ``eval_on/NAME.json``, and return its path."""
    return _write_json(Path(folder) / OTHER_FOLDER / f"{name}.json", {**results, "digest": digest})


def free_name(folder: str | os.PathLike, name: str, digest: str) -> str:
    """Return `name`, or `name` and a part of the digest if results on other data have that name already."""
    path = Path(folder) / OTHER_FOLDER / f"{name}.json"
    try:
        taken = read_json(path, {"digest": ""}, "")
    except UserError:  # damaged: it is replaced
        return name
    return name if taken is None or taken["digest"] == digest else f"{name}-{digest[:8]}"


def read_results(path: str | os.PathLike, like: Mapping[str, Any] = LIKE) -> dict[str, Any] | None:
    """Return the content of a file of results; None if there is no file.

    Raises:
      UserError: the file is damaged.
    """
    return read_json(path, like, "remove it, and run the evaluation again.")


def write_probe(folder: str | os.PathLike, results: Mapping[str, Any]) -> Path:
    """Add results ``{"step", "metrics", "chance", "pixels"}`` to ``linear_probe.json`` and return its path.

    The file holds the results of one step: results of another step, and a damaged file, are replaced.
    """
    path = Path(folder) / PROBE_FILE
    try:
        kept = read_results(path)
    except UserError:
        kept = None
    same = kept is not None and kept["step"] == results["step"]
    merged = {part: kept[part] | results[part] for part in PARTS} if same else {}
    return _write_json(path, dict(results) | merged)


def _write_json(path: Path, content: Mapping[str, Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with replaced_file(path) as file:
        file.write(json.dumps(content, indent=2, sort_keys=True) + "\n")
    return path


def write_embeddings(
    run_dir: str | os.PathLike, embeds: SplitEmbeddings, split: EvalSplit, max_kept: int = MAX_KEPT
) -> Path:
    """Write ``embeddings.npz`` for the report's images and return its path.

    With more than ``max_kept`` images, a subset (drawn with a fixed seed) and its matching texts are written.
    """
    n_images = len(split.images)
    kept = np.sort(np.random.default_rng(0).permutation(n_images)[:max_kept])
    texts = np.flatnonzero((n_images <= max_kept) | np.isin(split.text_ids, split.image_ids[kept]))
    strings = {
        "split": split.name,
        "texts": [split.texts[row] for row in texts],
        "classes": {name: list(classes.names) for name, classes in split.classes.items()},
    }
    arrays = {
        "strings": np.frombuffer(json.dumps(strings).encode(), np.uint8),
        "image_embeds": np.asarray(embeds.image_embeds)[kept].astype(np.float16),
        "text_embeds": np.asarray(embeds.text_embeds)[texts].astype(np.float16),
        "image_ids": np.asarray(split.image_ids)[kept],
        "text_ids": np.asarray(split.text_ids)[texts],
        **_sheet(_thumbnails(split.images[kept])),
    }
    for name, classes in split.classes.items():
        arrays[f"{name}/image_labels"] = np.asarray(classes.image_labels)[kept]
        arrays[f"{name}/text_labels"] = np.asarray(classes.text_labels)[texts]
    path = Path(run_dir) / EMBEDDINGS_FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    with replaced_file(path, "wb") as file:
        np.savez_compressed(file, **arrays)
    return path


def strings_of(arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Return the strings in ``embeddings.npz``: {"split": name, "texts": [M], "classes": {labelling: [K]}}.

    Raises:
      ValueError: they are damaged.
    """
    strings = json.loads(arrays["strings"].tobytes())
    problem = misfit(strings, {"split": "", "texts": [""], "classes": {EACH: [""]}}, "strings")
    if problem:
        raise ValueError(problem)
    return strings


def _thumbnails(images: Sequence) -> np.ndarray:
    """Return uint8 [N, h, w, 3], sides at most `THUMBNAIL_SIDE`. Images of different sizes are cropped to squares."""
    if not isinstance(images, np.ndarray):
        return np.stack([resize_and_crop(image, THUMBNAIL_SIDE) for image in images])
    height, width = images.shape[1:3]
    scale = THUMBNAIL_SIDE / max(height, width)
    if scale >= 1:
        return images
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return np.stack([np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC)) for image in images])


def _sheet(images: np.ndarray) -> dict[str, np.ndarray]:
    """Return the images as one WebP image: it takes a sixth of the space of an array of pixels."""
    n, height, width, _ = images.shape
    columns = math.ceil(math.sqrt(n))
    rows = math.ceil(n / columns)
    cells = np.full((rows * columns, height, width, 3), 255, np.uint8)
    cells[:n] = images
    grid = cells.reshape(rows, columns, height, width, 3).transpose(0, 2, 1, 3, 4)
    file = io.BytesIO()
    sheet = Image.fromarray(grid.reshape(rows * height, columns * width, 3))
    sheet.save(file, "WEBP", quality=SHEET_QUALITY)
    encoded = np.frombuffer(file.getvalue(), np.uint8)
    return {"sheet": encoded, "columns": np.asarray(columns), "cell": np.asarray((height, width))}
