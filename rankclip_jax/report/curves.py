"""The charts of a run's history: every logged metric appears in exactly one chart."""

import re
from collections.abc import Sequence

import numpy as np

from rankclip_jax.report.chart import Chart, Line

TERMS = ("loss", "clip", "rank_cross", "rank_in_modal")
CLAMP = 100.0  # CLIP's upper limit of exp(logit_scale); drawn only if never exceeded, because SigLIP has no limit
TRAIN, DIAGNOSTICS = "train/", "diagnostics/"

# Title and options of the metrics that a training step logs; any other metric is plotted under its own name.
KNOWN = {
    "loss": ("Loss", {}),
    "clip": ("CLIP term", {}),
    "rank_cross": ("Cross-modal ranking term", {}),
    "rank_in_modal": ("In-modal ranking term", {}),
    "temperature_scale": ("Temperature scale", {"log": True, "mark": (CLAMP, "clamp 100"), "smooth": False}),
    "learning_rate": ("Learning rate", {"from_zero": True, "smooth": False}),
    "grad_norm": ("Gradient norm", {"from_zero": True}),
    "seconds_per_step": ("Seconds per step", {"from_zero": True}),
    "samples_per_second": ("Samples per second", {"from_zero": True}),
    "mfu": ("Model FLOPs utilisation (MFU)", {"percent": True, "from_zero": True}),
    "data_wait_share": ("Time waiting for data", {"percent": True, "from_zero": True}),
}

PERCENT, RAW = {"percent": True, "from_zero": True, "smooth": False}, {"smooth": False}
# (pattern, title, options): metrics that share a chart; group 1 of the pattern names the line.
FAMILIES = (
    (r"image_to_text_(R@\d+)", "Image-to-text retrieval", PERCENT),
    (r"text_to_image_(R@\d+)", "Text-to-image retrieval", PERCENT),
    (r"zero_shot_(\w+_top\d+)", "Zero-shot accuracy", PERCENT),
    (r"((?:in|cross)_modal_(?:kendall_tau|spearman))", "Rank consistency", RAW),
    (r"(\w+)_NDCG@10", "NDCG@10", PERCENT),
    (r"(\w+)_median_rank", "Median rank", RAW),
    (r"grad_share_(\w+)", "Share of the gradient", PERCENT),
    (r"grad_norm_(\w+)", "Gradient norm of each term", RAW),
    (r"cosine_with_clip_(\w+)", "Gradient cosine with CLIP", RAW),
    (r"agreement_(\w+)", "Agreement of ranked lists", RAW),
    (r"loss_(\w+)", "Unweighted terms", RAW),
)
# Constant counts, and times.
UNPLOTTED = re.compile(r"_queries$|^train/((eta|elapsed)_seconds|peak_\w+_bytes)$")
RARE = ("train/skipped_steps",)  # plotted unless always 0
WEIGHTS = re.compile(r"^train/weight_(\w+)$")
MAX_LINES = 6

History = Sequence[dict[str, float]]


def training_charts(history: History) -> list[Chart]:
    """Return one chart for each metric under ``train/``, known metrics first; the term weights share a chart."""
    names = [name.removeprefix(TRAIN) for name in _names(history) if name.startswith(TRAIN) and not WEIGHTS.match(name)]
    order = {name: i for i, name in enumerate(KNOWN)}
    names.sort(key=lambda name: (order.get(name, len(order)), name))
    charts = [_training_chart(history, name) for name in names]
    terms = sum(name in TERMS for name in names)
    return [*charts[:terms], *_weight_charts(history), *charts[terms:]]


def _training_chart(history: History, name: str) -> Chart:
    title, options = KNOWN.get(name, (_readable(name), {}))
    line = _line(history, TRAIN + name, title)
    if "mark" in options and np.any(line.values > 1.001 * options["mark"][0]):
        options = options | {"mark": None}
    return Chart(_key(TRAIN + name), title, (line,), **options)


def _weight_charts(history: History) -> list[Chart]:
    """Return the chart of the term weights, if there are any; equal lines are drawn once, with all names."""
    groups: dict[tuple[float, ...], dict[str, str]] = {}
    for name in filter(WEIGHTS.match, _names(history)):
        values = tuple(row[name] for row in history if name in row)
        groups.setdefault(values, {})[name] = _readable(WEIGHTS.match(name)[1]).lower()
    lines = tuple(_line(history, next(iter(equal)), " = ".join(equal.values())) for equal in groups.values())
    if not lines:
        return []
    return [Chart("chart-weights", "Term weights", lines[:MAX_LINES], from_zero=True, smooth=False)]


def diagnostic_charts(history: History) -> list[Chart]:
    """Return the charts of ``diagnostics/``, related metrics together."""
    return _grouped(history, [name for name in _names(history) if name.startswith(DIAGNOSTICS)])


def evaluation_charts(history: History) -> list[Chart]:
    """Return the charts of all other metrics, related metrics of one split together."""
    return _grouped(history, [name for name in _names(history) if not name.startswith((TRAIN, DIAGNOSTICS))])


def _grouped(history: History, names: Sequence[str]) -> list[Chart]:
    groups: dict[tuple[str, str], list[tuple[str, str, dict]]] = {}
    for name in names:
        split, _, metric = name.rpartition("/")
        title, label, options = _family(metric)
        groups.setdefault((split, title), []).append((name, label, options))
    charts = []
    for (split, title), members in groups.items():
        title = f"{title} · {split}" if split and f"{split}/" != DIAGNOSTICS else title
        for start in range(0, len(members), MAX_LINES):
            lines = tuple(_line(history, name, label) for name, label, _ in members[start : start + MAX_LINES])
            name, _, options = members[start]
            charts.append(Chart(_key(name), title, lines, **options))
    return charts


def _family(metric: str) -> tuple[str, str, dict]:
    for pattern, title, options in FAMILIES:
        match = re.fullmatch(pattern, metric)
        if match:
            return title, match[1] if match[1].startswith("R@") else _readable(match[1]).lower(), options
    return _readable(metric), _readable(metric), RAW


def _names(history: History) -> list[str]:
    names = dict.fromkeys(
        name for row in history for name in row if name not in ("step", "time") and (name not in RARE or row[name])
    )
    return [name for name in names if not UNPLOTTED.search(name)]


def _line(history: History, name: str, label: str) -> Line:
    points = {row["step"]: row[name] for row in history if name in row}  # the last value of a repeated step
    steps = sorted(points)
    return Line(label, np.array(steps, np.float64), np.array([points[step] for step in steps], np.float64))


def _readable(name: str) -> str:
    plain = name.replace("image_to_text", "image-to-text").replace("text_to_image", "text-to-image").replace("_", " ")
    plain = re.sub(r"top(\d+)$", r"top-\1", plain)
    return plain[:1].upper() + plain[1:]


def _key(name: str) -> str:
    return "chart-" + re.sub(r"\W+", "-", name)
