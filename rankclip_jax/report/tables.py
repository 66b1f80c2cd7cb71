"""The result tables: model, chance and pixel reference of every split, and the headline."""

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
    """A row: split, who ("model", "pixels", "chance"), one printed value per column ("" where there is none)."""

    split: str
    who: str
    cells: tuple[str, ...]


@dataclass(frozen=True)
class Table:
    """A table: groups of (title, columns) and rows."""

    title: str
    note: str
    groups: tuple[tuple[str, tuple[Column, ...]], ...]
    rows: tuple[Row, ...]


# title, note, [(heading over the columns, pattern whose group 1 is the column's own heading, style)]
FAMILIES = (
    (
        "Retrieval",
        "R@K: share of queries whose match is among the first K, in percent. Ties count against the model.",
        (
            ("image → text", r"image_to_text_(R@\d+)", "percent"),
            ("image → text", r"image_to_text_(median)_rank", "rank"),
            ("text → image", r"text_to_image_(R@\d+)", "percent"),
            ("text → image", r"text_to_image_(median)_rank", "rank"),
        ),
    ),
    (
        "Zero-shot classification",
        "Share of images whose class is among the first k, by prompts alone, in percent.",
        (("by {}", r"zero_shot_(\w+)_top\d+", "percent"),),
    ),
    (
        "Linear probe",
        "A linear classifier on features of the training images: share of images, and mean of the classes' shares, "
        "in percent. Pixels: the same classifier on pixels; chance: always the commonest class.",
        (("by {}", r"linear_probe_(\w+)_(?:top1|per_class)", "percent"),),
    ),
    (
        "Rank consistency",
        "Do images and texts order the world alike? τ and ρ compare the list of an anchor's similarities in one "
        "modality with its list in the other (1 same order, 0 unrelated); NDCG grades the first ten by subgroup.",
        (
            ("in-modal", r"in_modal_(kendall_tau|spearman)", "signed"),
            ("cross-modal", r"cross_modal_(kendall_tau|spearman)", "signed"),
            ("NDCG@10", r"(image_to_text|text_to_image)_NDCG@10", "percent"),
        ),
    ),
    (
        "Geometry",
        "Alignment: squared distance of matching pairs. Uniformity: lower is more spread out. "
        "Gap: distance of the mean image from the mean text.",
        (("", r"(alignment|uniformity|modality_gap)", "signed"),),
    ),
)
SYMBOLS = {
    "kendall_tau": "Kendall τ",
    "spearman": "Spearman ρ",
    "image_to_text": "image → text",
    "text_to_image": "text → image",
    "modality_gap": "modality gap",
    "median": "median rank",
}
HIDDEN = re.compile(r"_queries$")


def result_tables(results: Mapping[str, Mapping[str, float]], order: Sequence[str] = ()) -> list[Table]:
    """Return the tables of ``eval.json``; metrics that no family knows come last, under their own names.

    ``order`` lists splits in the order of the data set, as far as it is known.
    """
    splits = split_order(results.get("metrics", {}), order)
    metrics = results.get("metrics", {})
    left = [name for name in dict.fromkeys(_metric(key) for key in metrics) if not HIDDEN.search(name)]
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
    """Return the splits, reported ones (``test*``) before ``val``, and as in ``order`` among themselves."""
    splits = dict.fromkeys(key.rpartition("/")[0] for key in metrics)
    place = {split: i for i, split in enumerate(order)}
    return sorted(splits, key=lambda split: (not split.startswith("test"), place.get(split, len(place))))


def headline(
    results: Mapping[str, Mapping[str, float]], order: Sequence[str] = (), preferred: str | None = None
) -> dict | None:
    """Return split, value, chance and pixels of the number to put on top, shares; None without results."""
    metrics = results.get("metrics", {})
    splits = [split for split in split_order(metrics, order) if f"{split}/{HEADLINE}" in metrics]
    if not splits:
        return None
    split = preferred if preferred in splits else splits[0]
    key = f"{split}/{HEADLINE}"
    rows = [("this model", "model", metrics[key])]
    rows += [("pixels alone", "pixels", results["pixels"][key])] if key in results["pixels"] else []
    rows += [("chance", "chance", results["chance"][key])] if key in results["chance"] else []
    return {"split": split, "value": metrics[key], "rows": rows, "top": max(value for _, _, value in rows) or 1.0}


def percent(value: float) -> str:
    """Return a share as percent: 34.1, 0.07, 100."""
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
    """Sort R@5 before R@10, and what is no such number after both."""
    digits = re.search(r"(\d+)$", column.metric)
    return int(digits[1]) if digits else 1000


def _table(title: str, note: str, groups: tuple, results: Mapping, splits: Sequence[str]) -> Table:
    columns = [column for _, columns in groups for column in columns]
    rows = []
    for split in splits:
        for who, part in (("model", "metrics"), ("pixels", "pixels"), ("chance", "chance")):
            values = results.get(part, {})
            cells = tuple(_cell(values.get(f"{split}/{column.metric}"), column.style) for column in columns)
            if any(cells):
                rows.append(Row(split, who, cells))
    return Table(title, note, groups, tuple(rows))


def _cell(value: float | None, style: str) -> str:
    if value is None:
        return ""
    if style == "percent":
        return percent(value)
    text = {"signed": f"{value:.3f}", "rank": f"{value:,.0f}", "plain": f"{value:.4g}"}[style]
    return text.replace("-", "−")


def _metric(key: str) -> str:
    return key.rpartition("/")[2]
