"""The result tables and the headline: the model next to chance and the pixel baseline, for every split."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

HEADLINE = "image_to_text_R@1"


@dataclass(frozen=True)
class Column:
    """A column: metric name, heading, and how to print its values ("percent", "signed", "rank", "plain")."""

    metric: str
    heading: str
    style: str


@dataclass(frozen=True)
class Row:
    """A row: split, predictor ("model", "pixels" or "chance"), and one printed value per column ("" if unknown)."""

    split: str
    predictor: str
    cells: tuple[str, ...]


@dataclass(frozen=True)
class Table:
    """A table: groups of (title, columns) and rows."""

    title: str
    note: str
    groups: tuple[tuple[str, tuple[Column, ...]], ...]
    rows: tuple[Row, ...]


# (title, note, [(group heading, pattern whose group 1 is the column heading, style)])
FAMILIES = (
    (
        "Retrieval",
        "R@K: percentage of queries with a match among the first K. Ties count against the model.",
        (
            ("image-to-text", r"image_to_text_(R@\d+)", "percent"),
            ("image-to-text", r"image_to_text_(median)_rank", "rank"),
            ("text-to-image", r"text_to_image_(R@\d+)", "percent"),
            ("text-to-image", r"text_to_image_(median)_rank", "rank"),
        ),
    ),
    (
        "Zero-shot classification",
        "Top-k accuracy in percent, with class embeddings from prompts.",
        (("by {}", r"zero_shot_(\w+)_top\d+", "percent"),),
    ),
    (
        "Linear probe",
        "A linear classifier on features of the training images: accuracy and mean accuracy per class, in percent. "
        "Pixels: the same classifier on pixels. Chance: always the most frequent class.",
        (("by {}", r"linear_probe_(\w+)_(?:top1|per_class)", "percent"),),
    ),
    (
        "Rank consistency",
        "Agreement between rankings of the two modalities. τ and ρ compare an anchor's similarities in one modality "
        "with those in the other (1: same order, 0: unrelated). NDCG grades the first ten results by class.",
        (
            ("in-modal", r"in_modal_(kendall_tau|spearman)", "signed"),
            ("cross-modal", r"cross_modal_(kendall_tau|spearman)", "signed"),
            ("NDCG@10", r"(image_to_text|text_to_image)_NDCG@10", "percent"),
        ),
    ),
    (
        "Geometry",
        "Alignment: mean squared distance of matching pairs. Uniformity: lower means more spread out. "
        "Modality gap: distance between the mean image and the mean text embedding.",
        (("", r"(alignment|uniformity|modality_gap)", "signed"),),
    ),
)
SYMBOLS = {
    "kendall_tau": "Kendall τ",
    "spearman": "Spearman ρ",
    "image_to_text": "image-to-text",
    "text_to_image": "text-to-image",
    "modality_gap": "modality gap",
    "median": "median rank",
}


def result_tables(results: Mapping[str, Mapping[str, float]], order: Sequence[str] = ()) -> list[Table]:
    """Return the tables of ``eval.json``; metrics without a known family come last, under their own names.

    Args:
      results: {"metrics", "chance", "pixels"}, each {"<split>/<metric>": value}.
      order: splits in the order of the data set; unlisted ones follow.
    """
    metrics = results.get("metrics", {})
    splits = split_order(metrics, order)
    left = dict.fromkeys(key.rpartition("/")[2] for key in metrics if not key.endswith("_queries"))
    tables = []
    for title, note, patterns in FAMILIES:
        groups = _groups(patterns, left)
        used = {column.metric for _, columns in groups for column in columns}
        left = [name for name in left if name not in used]
        tables.append(_table(title, note, groups, results, splits))
    other = tuple(Column(name, name.replace("_", " "), "plain") for name in left)
    tables.append(_table("Other metrics", "", (("", other),) if other else (), results, splits))
    return [table for table in tables if table.rows]


def split_order(metrics: Mapping[str, float], order: Sequence[str] = ()) -> list[str]:
    """Return the splits: ``test*`` first, then the others; both as in ``order``."""
    splits = dict.fromkeys(key.rpartition("/")[0] for key in metrics)
    place = {split: i for i, split in enumerate(order)}
    return sorted(splits, key=lambda split: (not split.startswith("test"), place.get(split, len(place))))


def headline(
    results: Mapping[str, Mapping[str, float]], order: Sequence[str] = (), preferred: str | None = None
) -> dict | None:
    """Return the metric at the top of the page, as fractions: {"split", "value", "rows", "top"}.

    ``rows`` are (label, predictor, value) and ``top`` is the largest value. None without image-to-text R@1.
    """
    metrics = results.get("metrics", {})
    splits = [split for split in split_order(metrics, order) if f"{split}/{HEADLINE}" in metrics]
    if not splits:
        return None
    split = preferred if preferred in splits else splits[0]
    key = f"{split}/{HEADLINE}"
    rows = [("this model", "model", metrics[key])]
    rows += [("nearest by pixels", "pixels", results["pixels"][key])] if key in results["pixels"] else []
    rows += [("chance", "chance", results["chance"][key])] if key in results["chance"] else []
    return {"split": split, "value": metrics[key], "rows": rows, "top": max(value for _, _, value in rows) or 1.0}


def percent(value: float) -> str:
    """Return a fraction as percent: 34.1, 0.07, 100.0."""
    value = 100 * value
    return f"{value:.2g}" if 0 < value < 1 else f"{value:.1f}"


def _groups(patterns: Sequence[tuple[str, str, str]], names: Sequence[str]) -> tuple:
    groups: dict[str, list[Column]] = {}
    for heading, pattern, style in patterns:
        for name in names:
            match = re.fullmatch(pattern, name)
            if match:
                title = heading.format(match[1].replace("_", " "))
                groups.setdefault(title, []).append(Column(name, _heading(name, match[1]), style))
    return tuple((title, tuple(sorted(columns, key=_number))) for title, columns in groups.items())


def _heading(name: str, found: str) -> str:
    top = re.search(r"_top(\d+)$", name)
    if name.endswith("_per_class"):
        return "per class"
    return f"top-{top[1]}" if top else SYMBOLS.get(found, found)


def _number(column: Column) -> int:
    """Sort R@5 before R@10, and columns without a number last."""
    digits = re.search(r"(\d+)$", column.metric)
    return int(digits[1]) if digits else 1000


def _table(title: str, note: str, groups: tuple, results: Mapping, splits: Sequence[str]) -> Table:
    columns = [column for _, columns in groups for column in columns]
    rows = []
    for split in splits:
        for predictor, part in (("model", "metrics"), ("pixels", "pixels"), ("chance", "chance")):
            values = results.get(part, {})
            cells = tuple(_cell(values.get(f"{split}/{column.metric}"), column.style) for column in columns)
            if any(cells):
                rows.append(Row(split, predictor, cells))
    return Table(title, note, groups, tuple(rows))


def _cell(value: float | None, style: str) -> str:
    if value is None:
        return ""
    if style == "percent":
        return percent(value)
    text = {"signed": f"{value:.3f}", "rank": f"{value:,.0f}", "plain": f"{value:.4g}"}[style]
    return text.replace("-", "−")
