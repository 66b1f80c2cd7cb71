"""The report: every section from a small run, sections that are missing, damaged files, hostile captions."""

import json
import re
import subprocess
import sys
import time
from html.parser import HTMLParser

import numpy as np
import pytest

from rankclip_jax.data.records import Classes, EvalSplit
from rankclip_jax.errors import UserError
from rankclip_jax.evals import EVALS, SplitEmbeddings, chance_levels, evaluate_embeddings
from rankclip_jax.evals.results import EMBEDDINGS_FILE, EVAL_FILE, write_embeddings, write_eval
from rankclip_jax.report import write_report
from rankclip_jax.report.chart import Chart, Series, draw, hover_data
from rankclip_jax.report.curves import evaluation_charts, training_charts
from rankclip_jax.report.page import inline_json
from rankclip_jax.report.projection import pca, tsne
from rankclip_jax.report.run_folder import read_run
from rankclip_jax.report.summary import duration, facts, seconds_trained
from rankclip_jax.report.tables import headline, percent, result_tables

HOSTILE = "<script>alert('caption')</script> & \"quotes\""
OUTSIDE = re.compile(r"(?:https?:)?//[a-z]", re.IGNORECASE)


def unit(rng, *shape):
    x = rng.normal(size=shape).astype(np.float32)
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def make_split(n=30):
    rng = np.random.default_rng(0)
    texts = (HOSTILE, *(f"name {i}" for i in range(1, n)), "a name without a picture")
    labels = np.arange(n + 1) % 3
    classes = Classes(("red & green", "blue", "<i>"), labels[:n], labels, ("{}", "a {}"))
    images = rng.integers(0, 255, (n, 16, 16, 3), dtype=np.uint8)
    return EvalSplit("test_style", images, np.arange(n), texts, np.arange(n + 1), {"group": classes})


def write_embeddings_of(folder, spoil=None):
    rng, split = np.random.default_rng(1), make_split()
    texts = unit(rng, 31, 8)
    images = texts[:30] + 0.5 * unit(rng, 30, 8)
    if spoil is not None:
        images[:] = spoil
    embeds = SplitEmbeddings(images, texts, {"group": unit(rng, 3, 8)})
    write_embeddings(folder, embeds, split)
    names = tuple(EVALS)
    metrics, chance = evaluate_embeddings(embeds, split, names), chance_levels(split, names)
    write_eval(folder, 200, metrics, chance, {"test_style/image_to_text_R@1": 0.25})


def write_config(folder):
    objective = {"name": "rankclip", "arithmetic": "exact", "ramp": "step", "cross_weight": 1.0, "in_modal_weight": 1.0}
    model = {"name": "mu", "dtype": "float32", "image": {"tower": "vit"}, "text": {"tower": "text_transformer"}}
    record = {
        "config": {"objective": objective, "model": model, "duration": 200, "batch_size": 64},
        "versions": {"jax": "0.10.2"},
        "data": {"name": "emoji", "digest": "0123456789abcdef", "counts": {"train": 4349, "test_style": 30}},
        "devices": {"platform": "cpu", "count": 1},
        "params": {"image": 1200000, "text": 800000},
    }
    (folder / "config.json").write_text(json.dumps(record))


def write_history(folder, steps=200):
    lines = []
    for step in range(10, steps + 1, 10):
        values = {"loss": 5 / step, "logit_scale": 14 + step / 10, "learning_rate": 1e-3, "unheard_of": step}
        lines.append({"step": step, "time": 1e9 + step} | {f"train/{key}": value for key, value in values.items()})
        lines.append({"step": step, "time": 1e9 + step, "val/image_to_text_R@1": step / 400, "val/novel": 1.0})
    lines[4]["train/loss"] = "NaN"
    text = "\n".join(json.dumps(line) for line in lines)
    (folder / "metrics.jsonl").write_text(text + '\n{"step": 210, "train/lo')  # killed while writing


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    write_config(folder)
    write_history(folder)
    write_embeddings_of(folder)
    return folder


@pytest.fixture(scope="module")
def page(run_folder):
    return write_report(run_folder).read_text(encoding="utf-8")


class Collector(HTMLParser):
    """Start tags with attributes, and a check that elements close in order."""

    VOID = frozenset(("meta", "input", "link", "img", "br", "path", "circle", "line"))

    def __init__(self, text):
        super().__init__()
        self.tags, self.open, self.strays = [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.strays.append(tag)


def test_all_sections_are_there_and_filled(page):
    ids = {attributes.get("id") for _, attributes in Collector(page).tags}
    assert {"results", "examples", "map", "lists", "curves", "details"} <= ids
    assert 'class="missing"' not in page.replace("<noscript><p class=", "")  # only the one for readers without scripts
    for said in (
        "L = CLIP + clip(3 t, 0, 2) (cross + in_modal)",
        "pixels alone",
        "Kendall τ",
        "clamp 100",
        "Modality gap",
    ):
        assert said in page
    assert "Unheard of" in page and "Novel · val" in page  # numbers nobody planned for are plotted too


def test_page_is_well_formed_and_self_contained(page):
    collected = Collector(page)
    assert collected.open == [] and collected.strays == []
    for tag, attributes in collected.tags:
        assert tag != "link"
        for name in ("src", "href", "action", "data", "poster"):
            value = attributes.get(name) or ""
            assert value.startswith(("#", "data:")) or not value, (tag, value)
    assert not OUTSIDE.search(re.sub(r"data:image/webp;base64,[A-Za-z0-9+/=]+", "", page))
    assert len(page) < 3_000_000


def test_every_picture_has_a_text_and_every_id_is_unique(page):
    tags = Collector(page).tags
    ids = [attributes["id"] for _, attributes in tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    pictures = [attributes for _, attributes in tags if attributes.get("role") == "img"]
    assert len(pictures) > 50
    assert all(attributes.get("aria-label") for attributes in pictures)


def test_captions_cannot_break_out(page):
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert" in page
    assert json.loads(inline_json({"a": HOSTILE})) == {"a": HOSTILE}
    assert not re.search("[<>&]", inline_json([HOSTILE, "\u2028"]))


def test_data_of_the_map_is_whole(page):
    data = json.loads(re.search(r'id="map-data">(.*?)</script>', page, re.DOTALL)[1])
    assert data["texts"]["name"][0] == HOSTILE
    assert len(data["pictures"]["x"]) == 30 and len(data["texts"]["x"]) == 31
    assert data["texts"]["rank"][-1] == 0 and data["pictures"]["own"] == list(range(30))
    assert all(0 <= x <= data["grid"] for axis in "xy" for x in data["pictures"][axis])
    assert [len(row) for row in data["pictures"]["names"]] == [5] * 30
    assert all(n not in row for n, row in enumerate(data["pictures"]["near"]))


def test_two_reports_of_one_run_are_equal(run_folder, page):
    assert write_report(run_folder).read_text(encoding="utf-8") == page


@pytest.mark.parametrize("part", ["config", "history", "evaluation"])
def test_missing_parts_are_named(tmp_path, part):
    {"config": write_config, "history": write_history, "evaluation": write_embeddings_of}[part](tmp_path)
    page = write_report(tmp_path).read_text(encoding="utf-8")
    assert Collector(page).open == []
    for name, sentence in (
        ("config", "No <code>config.json</code>"),
        ("history", "No training steps in <code>metrics.jsonl</code> yet"),
        ("evaluation", "fills when the final evaluation writes <code>embeddings.npz</code>"),
    ):
        assert (sentence in page) == (name != part)


@pytest.mark.parametrize("spoil", [0.0, 1.0, np.nan])
def test_a_collapsed_model_still_has_a_report(tmp_path, spoil):
    write_embeddings_of(tmp_path, spoil=spoil)
    page = write_report(tmp_path).read_text(encoding="utf-8")
    assert "NaN" not in re.search(r'id="map-data">(.*?)</script>', page, re.DOTALL)[1]


def test_a_single_picture_has_a_report(tmp_path):
    split = EvalSplit("val", np.zeros((1, 8, 8, 3), np.uint8), np.array([0]), ("one",), np.array([0]))
    write_embeddings(tmp_path, SplitEmbeddings(np.ones((1, 4)) / 2, np.ones((1, 4)) / 2), split)
    assert "one" in write_report(tmp_path).read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("config.json", "{", "config.json is damaged"),
        ("config.json", "[1]", "holds a list"),
        (EVAL_FILE, '{"metrics": {"val/a": "high"}}', "'metrics' must map names to numbers"),
        (EVAL_FILE, '{"metrics": 3}', "'metrics' must map names to numbers"),
        (EMBEDDINGS_FILE, "not a zip file", "embeddings.npz is damaged"),
        (EMBEDDINGS_FILE, "", "embeddings.npz is damaged"),
    ],
)
def test_damaged_files_are_user_errors(tmp_path, name, content, said):
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=said):
        write_report(tmp_path)
    assert not (tmp_path / "report.html").exists()


def test_arrays_that_do_not_fit_are_user_errors(tmp_path):
    write_embeddings_of(tmp_path)
    with np.load(tmp_path / EMBEDDINGS_FILE) as kept:
        arrays = dict(kept)
    np.savez(tmp_path / EMBEDDINGS_FILE, **{**arrays, "text_ids": arrays["text_ids"][:-1]})
    with pytest.raises(UserError, match="differ in length"):
        write_report(tmp_path)


def command(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "rankclip_jax.report", *map(str, arguments)], capture_output=True, text=True, timeout=120
    )


def test_command_writes_the_page_and_prints_its_path(tmp_path):
    write_history(tmp_path)
    done = command(tmp_path)
    assert (done.returncode, done.stdout.strip()) == (0, str(tmp_path / "report.html"))


def test_command_reports_mistakes_in_one_line(tmp_path):
    for arguments, said in (((tmp_path / "nowhere",), "no run folder"), ((tmp_path,), "holds no run"), ((), "found 0")):
        done = command(*arguments)
        assert done.returncode == 2
        assert done.stderr.startswith("error: ") and said in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1


def test_every_logged_number_is_in_exactly_one_chart():
    history = [{"step": 1, "time": 0.0, "train/loss": 1.0, "train/odd": 2.0, "x": 1.0, "val/a_queries": 9.0}]
    history += [{"step": 2, "time": 1.0, "val/image_to_text_R@1": 0.1, "val/image_to_text_R@5": 0.3, "test/a/b": 1.0}]
    charts = training_charts(history) + evaluation_charts(history)
    assert len({chart.key for chart in charts}) == len(charts)
    lines = [series for chart in charts for series in chart.series]
    assert len(lines) == 6  # all but the constant count of queries
    assert [chart.title for chart in charts[:2]] == ["Loss", "Odd"]
    together = next(chart for chart in charts if chart.title.startswith("Picture → text"))
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
    history = [{"step": step, "train/logit_scale": scale} for step, scale in ((1, 14.3), (2, largest))]
    (chart,) = training_charts(history)
    assert (chart.mark is not None) == marked
