"""Parts of the report: charts, tables, times, projections."""

import json
import time

import numpy as np
import pytest

from rankclip_jax.report import projection
from rankclip_jax.report.chart import MAX_POINTS, Chart, Line, chart_data, summary
from rankclip_jax.report.curves import diagnostic_charts, evaluation_charts, training_charts
from rankclip_jax.report.projection import pca, project, tsne
from rankclip_jax.report.run_folder import read_run
from rankclip_jax.report.summary import duration, facts, seconds_trained
from rankclip_jax.report.tables import headline, percent, result_tables
from tests.report.test_page import unit, write_history


def test_every_logged_metric_is_in_exactly_one_chart():
    history = [{"step": 1, "time": 0.0, "train/loss": 1.0, "train/odd": 2.0, "x": 1.0, "val/a_queries": 9.0}]
    history += [{"step": 2, "time": 1.0, "val/image_to_text_R@1": 0.1, "val/image_to_text_R@5": 0.3, "test/a/b": 1.0}]
    history += [{"step": 2, "time": 1.0, "diagnostics/grad_share_clip": 0.5, "diagnostics/grad_share_x": 0.5}]
    charts = training_charts(history) + diagnostic_charts(history) + evaluation_charts(history)
    assert len({chart.key for chart in charts}) == len(charts)
    lines = [line for chart in charts for line in chart.lines]
    assert len(lines) == 8  # all but the constant number of queries
    assert [chart.title for chart in charts[:2]] == ["Loss", "Odd"]
    together = next(chart for chart in charts if chart.title.startswith("Image-to-text"))
    assert [line.label for line in together.lines] == ["R@1", "R@5"]
    assert [line.label for line in charts[2].lines] == ["clip", "x"] and charts[2].title == "Share of the gradient"


def line(values, steps=None):
    return Line("c", np.arange(len(values), dtype=float) if steps is None else steps, np.array(values))


@pytest.mark.parametrize("values", [[1.0], [3.0, 3.0], [np.nan, np.nan], [0.0, -1.0], [1e-9, 1e9], [np.inf, 1.0]])
@pytest.mark.parametrize("log", [False, True])
def test_charts_of_awkward_values_are_valid_json(values, log):
    chart = Chart("c", "C", (line(values),), log=log)
    data = chart_data(chart)
    json.dumps(data, allow_nan=False)
    assert "nan" not in summary(chart) and "inf" not in summary(chart).replace("no finite", "")
    drawn = [value for value in data["lines"][0]["values"] if value is not None]
    assert drawn == [value for value in values if np.isfinite(value) and (value > 0 or not log)]
    assert data["limits"] == ([min(drawn), max(drawn)] if drawn else None)


def test_nan_makes_a_gap_in_both_lines():
    values = np.linspace(5.0, 1.0, 20)
    values[7] = np.nan
    logged, smoothed = chart_data(Chart("c", "C", (line(values),)))["lines"]
    assert (logged["kind"], smoothed["kind"]) == ("faint", "line")
    for part in (logged, smoothed):
        assert [i for i, value in enumerate(part["values"]) if value is None] == [7]
    assert smoothed["values"][0] == logged["values"][0]  # no bias at the start


def test_one_extreme_value_does_not_flatten_the_line():
    values = np.linspace(2.0, 1.0, 300)
    values[5] = 1e6
    assert chart_data(Chart("c", "C", (line(values),), smooth=False))["limits"][1] < 3


def test_a_repeated_step_counts_once():
    """A history with the steps of a resumed run twice: steps on the axis must increase."""
    history = [{"step": step, "train/odd": value} for step, value in ((1, 1.0), (2, 2.0), (2, 3.0), (1, 4.0), (3, 5.0))]
    (chart,) = training_charts(history)
    assert chart.lines[0].steps.tolist() == [1, 2, 3] and chart.lines[0].values.tolist() == [4, 3, 5]


def test_the_clamp_is_a_line_over_the_whole_run():
    chart = Chart("c", "C", (line([14.0, 20.0]),), log=True, mark=(100.0, "clamp 100"), smooth=False)
    assert chart_data(chart)["lines"][1] == {
        "label": "clamp 100",
        "kind": "mark",
        "colour": 0,
        "steps": [0.0, 1.0],
        "values": [100.0, 100.0],
    }


def test_weights_share_a_chart_and_equal_lines_are_drawn_once():
    history = [
        {"step": s, "train/clip": 1.0, "train/odd": 0.0, "train/eta_seconds": 9.0}
        | {"train/weight_rank_cross": s / 2, "train/weight_rank_in_modal": s / 2, "train/weight_other": 1.0}
        for s in (1, 2)
    ]
    charts = training_charts(history)
    assert [chart.title for chart in charts] == ["CLIP term", "Term weights", "Odd"]
    assert [line.label for line in charts[1].lines] == ["rank cross = rank in modal", "other"]


def test_long_histories_are_thinned():
    steps = np.arange(50_000, dtype=float)
    data = chart_data(Chart("c", "C", (line(np.sin(steps / 1000), steps),)))
    assert len(json.dumps(data)) < 20_000
    assert [len(part["steps"]) for part in data["lines"]] == [MAX_POINTS] * 2


def test_tables_hold_every_metric_and_prefer_test_splits():
    metrics = {"val/image_to_text_R@1": 0.5, "test_b/image_to_text_R@1": 0.25, "test_a/image_to_text_R@1": 0.001}
    metrics |= {"val/strange": 12.3456, "val/modality_gap": -0.5}
    results = {"metrics": metrics, "chance": {"val/image_to_text_R@1": 0.01}, "pixels": {}}
    tables = result_tables(results, order=["val", "test_b", "test_a"])
    assert [table.title for table in tables] == ["Retrieval", "Geometry", "Other metrics"]
    assert [(row.split, row.predictor, row.cells) for row in tables[0].rows] == [
        ("test_b", "model", ("25.0",)),
        ("test_a", "model", ("0.1",)),
        ("val", "model", ("50.0",)),
        ("val", "chance", ("1.0",)),
    ]
    assert tables[1].rows[0].cells == ("−0.500",) and tables[2].rows[0].cells == ("12.35",)
    assert headline(results, preferred="test_a")["value"] == 0.001
    assert headline(results, order=["test_b"])["split"] == "test_b"
    assert headline({"metrics": {}, "chance": {}, "pixels": {}}) is None
    assert [percent(value) for value in (0, 0.00074, 0.341, 1)] == ["0.0", "0.074", "34.1", "100.0"]


def test_wall_time_excludes_the_gap_before_a_resumed_run(tmp_path):
    write_history(tmp_path, steps=100)
    run = read_run(tmp_path)
    assert seconds_trained(run) == 90
    later = [{**line, "time": line["time"] + 40_000} for line in run.history]
    run.history.extend(later)
    assert seconds_trained(run) == 180
    assert ("Wall time", "3 min", "") in facts(run)
    run.history[-1]["train/elapsed_seconds"] = 65.0
    assert ("Wall time", "1 min 5 s", "") in facts(run)


def test_durations_are_readable():
    said = [duration(seconds) for seconds in (0.4, 45, 340, 3600, 11_520, 190_000)]
    assert said == ["0 s", "45 s", "5 min 40 s", "1 h", "3 h 12 min", "2 d 4 h"]


def test_pca_finds_the_plane():
    rng = np.random.default_rng(0)
    plane = rng.normal(size=(200, 2)) * (5, 2)
    found = pca(plane @ np.linalg.qr(rng.normal(size=(7, 2)))[0].T + 3)
    centred = plane - plane.mean(axis=0)
    np.testing.assert_allclose(found @ found.T, centred @ centred.T, atol=1e-9)
    assert pca(np.ones((5, 1))).shape == (5, 2)


def test_tsne_keeps_clusters_together():
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(4), 40)
    points = 4 * np.eye(4, 16)[labels] + 0.5 * rng.normal(size=(160, 16))
    method, y = project(points)
    assert method == "t-SNE"
    apart = ((y[:, None] - y[None]) ** 2).sum(axis=-1)
    np.fill_diagonal(apart, np.inf)
    assert np.mean(labels[apart.argmin(axis=1)] == labels) > 0.97
    np.testing.assert_array_equal(tsne(points), y)


def test_tsne_of_a_full_split_takes_seconds():
    points = unit(np.random.default_rng(0), 600, 32)
    start = time.monotonic()
    assert np.isfinite(tsne(points)).all()
    assert time.monotonic() - start < 30


def test_more_points_than_t_sne_can_take_are_projected_by_pca(monkeypatch):
    points = unit(np.random.default_rng(0), 20, 4)
    monkeypatch.setattr(projection, "MAX_TSNE", 19)
    method, y = project(points)
    assert method == "PCA"
    np.testing.assert_array_equal(y, pca(points))


@pytest.mark.parametrize(("largest", "marked"), [(40.0, True), (100.0001, True), (180.0, False)])
def test_a_scale_above_the_clamp_of_clip_has_no_clamp_line(largest, marked):
    """SigLIP's scale has no upper limit, so a line at 100 would be wrong."""
    history = [{"step": step, "train/temperature_scale": scale} for step, scale in ((1, 14.3), (2, largest))]
    (chart,) = training_charts(history)
    assert (chart.mark is not None) == marked
