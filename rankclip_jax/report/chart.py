"""One chart of the page as data; `charts.js` draws it with uPlot."""

import math
from dataclasses import dataclass

import numpy as np

MAX_POINTS = 400  # longer lines are averaged over neighbouring points
MIN_SMOOTHED = 12  # shorter lines are not smoothed


@dataclass(frozen=True)
class Line:
    """A named line of P points: int or float [P] steps, increasing, and float [P] values; NaN makes a gap."""

    label: str
    steps: np.ndarray
    values: np.ndarray


@dataclass(frozen=True)
class Chart:
    """What to draw.

    Attributes:
      key: unique id on the page.
      lines: up to six lines.
      percent: values are fractions, shown times 100.
      from_zero: the y axis starts at 0.
      log: logarithmic y axis; values that are not positive make gaps.
      mark: (value, label) of a horizontal reference line.
      smooth: draw a smoothed line over the faint logged values.
    """

    key: str
    title: str
    lines: tuple[Line, ...]
    percent: bool = False
    from_zero: bool = False
    log: bool = False
    mark: tuple[float, str] | None = None
    smooth: bool = True

    @property
    def heading(self) -> str:
        """The title with the unit."""
        return f"{self.title}, %" if self.percent else self.title


def chart_data(chart: Chart) -> dict:
    """Return the chart as JSON values: lines ({"label", "kind", "colour", "steps", "values"}), axis options, and
    "limits", the range of the y axis.

    The limits exclude the highest and lowest 0.5 %, so a single extreme value does not flatten the line.
    """
    lines = [part for colour, line in enumerate(chart.lines) for part in _parts(line, colour, chart)]
    if chart.mark is not None:
        value, label = chart.mark
        ends = chart.lines[0].steps[[0, -1]]
        lines.append(_json_line(Line(label, ends, np.full(2, value)), "mark", 0))
    values = np.array([value for line in lines for value in line["values"] if value is not None])
    limits = np.percentile(values, (0.5, 99.5), method="nearest").tolist() if len(values) else None
    return {"log": chart.log, "fromZero": chart.from_zero, "limits": limits, "lines": lines}


def summary(chart: Chart) -> str:
    """Return one sentence with the first and last value of each line, for screen readers."""
    factor, unit = (100, " %") if chart.percent else (1, "")
    ends = []
    for line in chart.lines:
        finite = factor * line.values[np.isfinite(line.values)]
        if len(finite):
            ends.append(f"{line.label} from {finite[0]:.3g} to {finite[-1]:.3g}{unit}")
    return f"{chart.title}: " + ("; ".join(ends) or "no finite values")


def _parts(line: Line, colour: int, chart: Chart) -> list[dict]:
    values = line.values * (100 if chart.percent else 1)
    values = np.where(values > 0, values, np.nan) if chart.log else values
    if not chart.smooth or len(values) < MIN_SMOOTHED:
        return [_json_line(Line(line.label, line.steps, values), "line", colour)]
    logged, smoothed = Line("logged", line.steps, values), Line("smoothed", line.steps, _smooth(values))
    return [_json_line(logged, "faint", colour), _json_line(smoothed, "line", colour)]


def _json_line(line: Line, kind: str, colour: int) -> dict:
    run = math.ceil(len(line.steps) / MAX_POINTS)
    starts = np.arange(0, len(line.steps), run)
    sizes = np.diff(np.append(starts, len(line.steps)))
    steps, values = (np.add.reduceat(x, starts) / sizes for x in (line.steps, line.values))
    return {"label": line.label, "kind": kind, "colour": colour, "steps": _rounded(steps), "values": _rounded(values)}


def _smooth(values: np.ndarray) -> np.ndarray:
    """Exponential moving average over about 1/40 of the run, with bias correction; gaps stay gaps."""
    keep = 1 - 1 / max(2.0, len(values) / 40)
    total = weight = 0.0
    out = np.full(len(values), np.nan)
    for i in np.flatnonzero(np.isfinite(values)):
        total, weight = keep * total + (1 - keep) * values[i], keep * weight + (1 - keep)
        out[i] = total / weight
    return out


def _rounded(values: np.ndarray) -> list[float | None]:
    return [float(f"{value:.5g}") if np.isfinite(value) else None for value in values]
