"""Parts of the report by themselves: charts, tables, times, projections."""

import json
import time

import numpy as np
import pytest

from rankclip_jax.report.chart import Chart, Series, draw, hover_data
from rankclip_jax.report.curves import evaluation_charts, training_charts
from rankclip_jax.report.projection import pca, tsne
from rankclip_jax.report.run_folder import read_run
from rankclip_jax.report.summary import duration, facts, seconds_trained
from rankclip_jax.report.tables import headline, percent, result_tables
from tests.report.test_page import unit, write_history


def test_every_logged_number_is_in_exactly_one_chart():
    history = [{"step": 1, "time": 0.0, "train/loss": 1.0, "train/odd": 2.0, "x": 1.0, "val/a_queries": 9.0}]
    history += [{"step": 2, "time": 1.0, "val/image_to_text_R@1": 0.1, "val/image_to_text_R@5": 0.3, "test/a/b": 1.0}]
    charts = training_charts(history) + evaluation_charts(history)
    assert len({chart.key for chart in charts}) == len(charts)
    lines = [series for chart in charts for series in chart.series]
    assert len(lines) == 6  # all but the constant count of queries
    assert [chart.title for chart in charts[:2]] == ["Loss", "Odd"]
    together = next(chart for chart in charts if chart.title.startswith("Image → text"))
    assert [series.label for series in together.series] == ["R@1", "R@5"]


@pytest.mark.parametrize("values", [[1.0], [3.0, 3.0], [np.nan, np.nan], [0.0, -1.0], [1e-9, 1e9], [np.inf, 1.0]])
@pytest.mark.parametrize("log", [False, True])
def test_charts_of_awkward_values_stay_inside_their_box(values, log):
    chart = Chart("c", "C", (Series("c", np.arange(len(values), dtype=float), np.array(values)),), log=log)
    drawn = str(draw(chart)).lower()
    assert "nan" not in drawn and "inf" not in drawn.replace("no finite", "")
    json.dumps(hover_data(chart), allow_nan=False)


def test_weights_share_a_chart_and_coinciding_lines_are_drawn_once():
    history = [
        {"step": s, "train/clip": 1.0, "train/odd": 0.0, "train/eta_seconds": 9.0}
        | {"train/weight_rank_cross": s / 2, "train/weight_rank_in_modal": s / 2, "train/weight_other": 1.0}
        for s in (1, 2)
    ]
    charts = training_charts(history)
    assert [chart.title for chart in charts] == ["CLIP term", "Weights of the terms", "Odd"]
    assert [series.label for series in charts[1].series] == ["rank cross = rank in modal", "other"]


def test_long_histories_are_thinned():
    steps = np.arange(50_000, dtype=float)
    chart = Chart("c", "C", (Series("c", steps, np.sin(steps / 1000)),))
    assert len(draw(chart)) < 20_000
    assert len(hover_data(chart)["lines"][0]["steps"]) <= 300


def test_tables_hold_every_metric_and_prefer_test_splits():
    metrics = {"val/image_to_text_R@1": 0.5, "test_b/image_to_text_R@1": 0.25, "test_a/image_to_text_R@1": 0.001}
    metrics |= {"val/strange": 12.3456, "val/modality_gap": -0.5}
    results = {"metrics": metrics, "chance": {"val/image_to_text_R@1": 0.01}, "pixels": {}}
    tables = result_tables(results, order=["val", "test_b", "test_a"])
    assert [table.title for table in tables] == ["Retrieval", "Geometry", "Other metrics"]
    assert [(row.split, row.who, row.cells) for row in tables[0].rows] == [
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


def test_wall_time_leaves_out_the_night_between_two_halves(tmp_path):
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


def test_pca_finds_the_plane_and_tsne_keeps_clusters_together():
    rng = np.random.default_rng(0)
    plane = rng.normal(size=(200, 2)) * (5, 2)
    found = pca(plane @ np.linalg.qr(rng.normal(size=(7, 2)))[0].T + 3)
    centred = plane - plane.mean(axis=0)
    np.testing.assert_allclose(found @ found.T, centred @ centred.T, atol=1e-9)
    assert pca(np.ones((5, 1))).shape == (5, 2)
    labels = np.repeat(np.arange(4), 40)
    points = 4 * np.eye(4, 16)[labels] + 0.5 * rng.normal(size=(160, 16))
    y = tsne(points)
    apart = ((y[:, None] - y[None]) ** 2).sum(axis=-1)
    np.fill_diagonal(apart, np.inf)
    assert np.mean(labels[apart.argmin(axis=1)] == labels) > 0.97
    np.testing.assert_array_equal(tsne(points), y)


def test_tsne_of_a_full_split_takes_seconds():
    points = unit(np.random.default_rng(0), 600, 32)
    start = time.monotonic()
    assert np.isfinite(tsne(points)).all()
    assert time.monotonic() - start < 30


@pytest.mark.parametrize(("largest", "marked"), [(40.0, True), (100.0001, True), (180.0, False)])
def test_a_scale_above_clips_clamp_has_no_clamp(largest, marked):
    """SigLIP's scale has no ceiling: a line at 100 would say it had."""
    history = [{"step": step, "train/temperature_scale": scale} for step, scale in ((1, 14.3), (2, largest))]
    (chart,) = training_charts(history)
    assert (chart.mark is not None) == marked
