"""One line chart as inline SVG: readable without scripts, coloured by the page's style sheet.

Letters: P points of a series.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup, escape

WIDTH, HEIGHT = 420, 230
LEFT, RIGHT, TOP, BOTTOM = 46, 18, 12, 26
MAX_POINTS = 300


@dataclass(frozen=True)
class Series:
    """A named line: float [P] steps and values; values may be NaN (a gap)."""

    label: str
    steps: np.ndarray
    values: np.ndarray


@dataclass(frozen=True)
class Chart:
    """What to draw.

    Attributes:
      key: unique id on the page.
      title: heading.
      series: up to six lines.
      percent: values are shares, shown times 100.
      from_zero: the y axis starts at 0.
      log: logarithmic y axis.
      mark: (value, label) of a horizontal reference line.
      smooth: draw a smoothed line over the faint raw one.
    """

    key: str
    title: str
    series: tuple[Series, ...]
    percent: bool = False
    from_zero: bool = False
    log: bool = False
    mark: tuple[float, str] | None = None
    smooth: bool = True


@dataclass(frozen=True)
class Axis:
    """Maps data to pixels along one direction."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: np.ndarray | float) -> np.ndarray:
        if self.log:
            share = np.log(np.asarray(value) / self.low) / np.log(self.high / self.low)
        else:
            share = (np.asarray(value) - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)


def draw(chart: Chart) -> Markup:
    """Return the chart as one ``<svg>``."""
    scaled = [_scaled(series, chart) for series in chart.series]
    x, y = _x_axis(scaled), _y_axis(scaled, chart)
    parts = [*_grid(x, y), *_mark(chart, y)]
    for number, series in enumerate(scaled):
        parts += _line(series, x, y, number, chart.smooth)
    label = escape(summary(chart))
    body = "".join(parts)
    return Markup(
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" tabindex="0" aria-label="{label}" '
        f'data-chart="{escape(chart.key)}">{body}</svg>'
    )


def hover_data(chart: Chart) -> dict:
    """Return what the script needs to show values under the pointer: axes in pixels, and the smoothed lines."""
    scaled = [_scaled(series, chart) for series in chart.series]
    x, y = _x_axis(scaled), _y_axis(scaled, chart)
    lines = []
    for series in scaled:
        steps, values = _thin(series.steps, _smooth(series.values) if chart.smooth else series.values)
        lines.append({"label": series.label, "steps": _rounded(steps), "values": _rounded(values)})
    return {
        "x": [x.low, x.high, x.start, x.end],
        "y": [y.low, y.high, y.start, y.end, int(y.log)],
        "unit": "%" if chart.percent else "",
        "lines": lines,
    }


def summary(chart: Chart) -> str:
    """Return one sentence for readers that do not see the image."""
    said = []
    for series in chart.series:
        finite = series.values[np.isfinite(series.values)]
        if len(finite):
            factor, unit = (100, " %") if chart.percent else (1, "")
            said.append(f"{series.label} from {_text(finite[0] * factor)} to {_text(finite[-1] * factor)}{unit}")
    return f"{chart.title}: " + ("; ".join(said) or "no finite values")


def _scaled(series: Series, chart: Chart) -> Series:
    return Series(series.label, series.steps, series.values * (100 if chart.percent else 1))


def _x_axis(series: Sequence[Series]) -> Axis:
    steps = np.concatenate([line.steps for line in series])
    low, high = float(steps.min()), float(steps.max())
    return Axis(low if high > low else low - 1, high if high > low else high + 1, LEFT, WIDTH - RIGHT)


def _y_axis(series: Sequence[Series], chart: Chart) -> Axis:
    values = np.concatenate([line.values for line in series])
    values = values[np.isfinite(values)]
    if chart.log:
        values = values[values > 0]
    if chart.mark is not None:
        values = np.append(values, chart.mark[0])
    # A single wild value must not flatten the rest of the line.
    low, high = (np.percentile(values, (0.5, 99.5)) if len(values) else (0.0, 1.0)) if not chart.log else _span(values)
    if chart.log:
        return Axis(low / 1.25, high * 1.25, HEIGHT - BOTTOM, TOP, log=True)
    margin = 0.06 * (high - low) or 0.5 * abs(high) or 1.0
    low = 0.0 if chart.from_zero and low >= 0 else low - margin
    return Axis(float(low), float(high + margin), HEIGHT - BOTTOM, TOP)


def _span(values: np.ndarray) -> tuple[float, float]:
    return (float(values.min()), float(values.max())) if len(values) else (1.0, 10.0)


def _grid(x: Axis, y: Axis) -> list[str]:
    parts = []
    for value in _log_ticks(y) if y.log else _ticks(y.low, y.high, 5):
        at = f"{float(y(value)):.1f}"
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at}" y2="{at}"/>')
        parts.append(f'<text class="tick" x="{LEFT - 7}" y="{at}" dy=".32em" text-anchor="end">{_text(value)}</text>')
    for value in _ticks(x.low, x.high, 5):
        at = f"{float(x(value)):.1f}"
        parts.append(f'<text class="tick" x="{at}" y="{HEIGHT - 8}" text-anchor="middle">{_text(value)}</text>')
    return parts


def _mark(chart: Chart, y: Axis) -> list[str]:
    if chart.mark is None:
        return []
    value, label = chart.mark
    at = float(y(value))
    return [
        f'<line class="mark" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at:.1f}" y2="{at:.1f}"/>',
        f'<text class="mark-label" x="{WIDTH - RIGHT}" y="{at + 13:.1f}" text-anchor="end">{escape(label)}</text>',
    ]


def _line(series: Series, x: Axis, y: Axis, number: int, smooth: bool) -> list[str]:
    raw = _thin(series.steps, series.values)
    if len(series.values) < 12 or not smooth:
        dots = "".join(
            f'<circle class="dot s{number}" cx="{cx:.1f}" cy="{cy:.1f}" r="2.6"/>' for cx, cy in _pixels(*raw, x, y)
        )
        return [f'<path class="line s{number}" d="{_path(*raw, x, y)}"/>', dots if len(raw[0]) <= 40 else ""]
    smoothed = _thin(series.steps, _smooth(series.values))
    return [
        f'<path class="raw s{number}" d="{_path(*raw, x, y)}"/>',
        f'<path class="line s{number}" d="{_path(*smoothed, x, y)}"/>',
    ]


def _path(steps: np.ndarray, values: np.ndarray, x: Axis, y: Axis) -> str:
    """Return path data; a value that is not finite (or not positive on a log axis) breaks the line."""
    commands, pen = [], "M"
    for step, value in zip(steps, values, strict=True):
        if not np.isfinite(value) or (y.log and value <= 0):
            pen = "M"
            continue
        at = min(max(float(y(value)), TOP - 4), HEIGHT - BOTTOM + 4)
        commands.append(f"{pen}{float(x(step)):.1f} {at:.1f}")
        pen = "L"
    return "".join(commands)


def _pixels(steps: np.ndarray, values: np.ndarray, x: Axis, y: Axis) -> list[tuple[float, float]]:
    good = np.isfinite(values) & ((values > 0) | (not y.log))
    return [(float(x(step)), float(y(value))) for step, value in zip(steps[good], values[good], strict=True)]


def _thin(steps: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Average runs of neighbours until at most `MAX_POINTS` remain."""
    run = math.ceil(len(steps) / MAX_POINTS)
    if run <= 1:
        return steps, values
    starts = np.arange(0, len(steps), run)
    sizes = np.diff(np.append(starts, len(steps)))
    return np.add.reduceat(steps, starts) / sizes, np.add.reduceat(values, starts) / sizes


def _smooth(values: np.ndarray) -> np.ndarray:
    """Exponential moving average over about a fortieth of the run, free of start-up bias; skips gaps."""
    keep = 1 - 1 / max(2.0, len(values) / 40)
    total = weight = 0.0
    out = np.empty(len(values))
    for i, value in enumerate(values):
        if np.isfinite(value):
            total, weight = keep * total + (1 - keep) * value, keep * weight + (1 - keep)
        out[i] = total / weight if weight and np.isfinite(value) else np.nan
    return out


def _ticks(low: float, high: float, count: int) -> list[float]:
    """Round numbers inside [low, high], about ``count`` of them."""
    rough = (high - low) / count
    power = 10 ** math.floor(math.log10(rough))
    step = power * next(m for m in (1, 2, 2.5, 5, 10) if m * power >= rough)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [i * step for i in range(first, last + 1)]


def _log_ticks(axis: Axis) -> list[float]:
    powers = range(math.floor(math.log10(axis.low)), math.ceil(math.log10(axis.high)) + 1)
    values = [m * 10.0**p for p in powers for m in (1, 2, 5)]
    return [value for value in values if axis.low <= value <= axis.high]


def _text(value: float) -> str:
    """Return a number short enough for an axis: 12k, 3.5, 0.001."""
    if abs(value) >= 1e6:
        return f"{value / 1e6:g}M"
    if abs(value) >= 1e4:
        return f"{value / 1e3:g}k"
    if 0 < abs(value) < 0.01:
        mantissa, _, exponent = f"{value:.1e}".partition("e")
        return f"{mantissa.removesuffix('.0')}e{int(exponent)}".replace("-", "−")
    return (f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}").replace("-", "−")


def _rounded(values: np.ndarray) -> list[float | None]:
    return [float(f"{value:.5g}") if np.isfinite(value) else None for value in values]
