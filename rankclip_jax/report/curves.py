"""Which charts a run's history makes: every number that was logged appears in exactly one of them."""

import re
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from rankclip_jax.report.chart import Chart, Series

TERMS = ("Loss", "CLIP term", "Ranking, cross-modal", "Ranking, in-modal")
CLAMP = 100.0  # CLIP's ceiling of the scale, exp(logit_scale); drawn only where a run stays below: not all clamp there
TRAIN = "train/"

# Title and options of the numbers that a training step logs; anything else is plotted under its own name.
KNOWN = {
    "loss": ("Loss", {}),
    "clip": ("CLIP term", {}),
    "rank_cross": ("Ranking, cross-modal", {}),
    "rank_in_modal": ("Ranking, in-modal", {}),
    "temperature_scale": ("Scale 1 / temperature", {"log": True, "mark": (CLAMP, "clamp 100"), "smooth": False}),
    "learning_rate": ("Learning rate", {"from_zero": True, "smooth": False}),
    "grad_norm": ("Gradient norm", {"from_zero": True}),
    "seconds_per_step": ("Seconds per step", {"from_zero": True}),
    "samples_per_second": ("Samples per second", {"from_zero": True}),
    "data_wait_share": ("Time waiting for data", {"percent": True, "from_zero": True}),
}

# (pattern, title): metrics of one evaluation that share an axis; the first group of the pattern names the line.
FAMILIES = (
    (r"image_to_text_(R@\d+)", "Image → text"),
    (r"text_to_image_(R@\d+)", "Text → image"),
    (r"zero_shot_(\w+_top\d+)", "Zero-shot"),
    (r"((?:in|cross)_modal_(?:kendall_tau|spearman))", "Rank consistency"),
    (r"(\w+)_NDCG@10", "NDCG@10"),
    (r"(\w+)_median_rank", "Median rank"),
)
# The same number at every step, or the clock itself.
UNPLOTTED = re.compile(r"_queries$|^train/(eta|elapsed)_seconds$")
WEIGHTS = re.compile(r"^train/weight_(\w+)$")
MAX_LINES = 6


def training_charts(history: Sequence[dict[str, float]]) -> list[Chart]:
    """Return a chart for every number under ``train/``, the known ones first."""
    names = [name for name in _names(history) if name.startswith(TRAIN) and not WEIGHTS.match(name)]
    order = {TRAIN + name: place for place, name in enumerate(KNOWN)}
    charts = []
    for name in sorted(names, key=lambda name: (order.get(name, len(order)), name)):
        short = name.removeprefix(TRAIN)
        title, options = KNOWN.get(short, (_readable(short), {}))
        series = _series(history, name, title)
        if "mark" in options and np.any(series.values > 1.001 * options["mark"][0]):
            options = {key: value for key, value in options.items() if key != "mark"}
        charts.append(Chart(_key(name), title, (series,), **options))
    terms = sum(chart.title in TERMS for chart in charts)
    return [*charts[:terms], *_weight_charts(history), *charts[terms:]]


def _weight_charts(history: Sequence[dict[str, float]]) -> list[Chart]:
    """Return one chart of the weights that move over training, lines that coincide drawn once."""
    lines: dict[tuple[float, ...], tuple[str, list[str]]] = {}
    for name in _names(history):
        match = WEIGHTS.match(name)
        if match:
            values = tuple(line[name] for line in history if name in line)
            lines.setdefault(values, (name, []))[1].append(_readable(match[1]).lower())
    series = tuple(_series(history, name, " = ".join(labels)) for name, labels in lines.values())
    if not series:
        return []
    return [Chart("chart-weights", "Weights of the terms", series[:MAX_LINES], from_zero=True, smooth=False)]


def evaluation_charts(history: Sequence[dict[str, float]]) -> list[Chart]:
    """Return the charts of everything else that was logged, related numbers together, by prefix."""
    names = [name for name in _names(history) if not name.startswith(TRAIN)]
    groups: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for name in names:
        split, _, metric = name.rpartition("/")
        family, label = _family(metric)
        groups.setdefault((split, family), []).append((name, label))
    charts = []
    for (split, family), members in groups.items():
        title = f"{family} · {split}" if split else family
        for start in range(0, len(members), MAX_LINES):
            lines = tuple(_series(history, *member) for member in members[start : start + MAX_LINES])
            charts.append(_evaluation_chart(title, lines, members[start][0]))
    return charts


def _evaluation_chart(title: str, lines: tuple[Series, ...], name: str) -> Chart:
    chart = Chart(_key(name), title, lines, smooth=False)
    if "R@" in name or "_top" in name or "NDCG" in name:
        return replace(chart, percent=True, from_zero=True)
    return chart


def _family(metric: str) -> tuple[str, str]:
    for pattern, title in FAMILIES:
        match = re.fullmatch(pattern, metric)
        if match:
            return title, match[1] if match[1].startswith("R@") else _readable(match[1]).lower()
    return _readable(metric), _readable(metric)


def _names(history: Sequence[dict[str, float]]) -> list[str]:
    names = dict.fromkeys(name for line in history for name in line if name not in ("step", "time"))
    return [name for name in names if not UNPLOTTED.search(name)]


def _series(history: Sequence[dict[str, float]], name: str, label: str) -> Series:
    points = [(line["step"], line[name]) for line in history if name in line]
    steps, values = np.array(points, np.float64).T
    return Series(label, steps, values)


def _readable(name: str) -> str:
    plain = name.replace("image_to_text", "image → text").replace("text_to_image", "text → image").replace("_", " ")
    return plain[:1].upper() + plain[1:]


def _key(name: str) -> str:
    return "chart-" + re.sub(r"\W+", "-", name)
