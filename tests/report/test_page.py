"""The report page: all sections of a small run, missing parts, damaged files, hostile captions, a real browser."""

import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser

import numpy as np
import pytest

from rankclip_jax.data.records import Classes, EvalSplit
from rankclip_jax.evals.embeddings import SplitEmbeddings
from rankclip_jax.evals.registry import EVALS
from rankclip_jax.evals.results import write_embeddings, write_eval
from rankclip_jax.evals.split import chance_levels, evaluate_embeddings
from rankclip_jax.report import write_report
from rankclip_jax.report.page import inline_json

EQUATION = "L = CLIP + clip(3 t, 0, 2) (cross + in_modal)"
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
HOSTILE = "<script>alert('caption')</script> & \"quotes\""
UPLOT_BANNER = "/*! https://github.com/leeoniya/uPlot (v1.6.32) */"  # a comment, not a request
OUTSIDE = re.compile(r"(?:https?:)?//[a-z]", re.IGNORECASE)


def unit(rng, *shape):
    x = rng.normal(size=shape).astype(np.float32)
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def make_split(n=30):
    rng = np.random.default_rng(0)
    texts = (HOSTILE, *(f"caption {i}" for i in range(1, n)), "a caption without an image")
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
    pixels = {"test_style/image_to_text_R@1": 0.25}
    write_eval(folder, {"step": 200, "metrics": metrics, "chance": chance, "pixels": pixels})


def write_config(folder):
    objective = {"name": "rankclip", "arithmetic": "exact", "ramp": "step", "cross_weight": 1.0, "in_modal_weight": 1.0}
    model = {"name": "mu", "dtype": "float32", "image": {"tower": "vit"}, "text": {"tower": "text_transformer"}}
    record = {
        "config": {"objective": objective, "model": model, "duration": 200, "batch_size": 64},
        "objective_equation": EQUATION,
        "versions": {"jax": "0.10.2"},
        "data": {"name": "emoji", "digest": "0123456789abcdef", "counts": {"train": 4349, "test_style": 30}},
        "devices": {"platform": "cpu", "count": 1},
        "params": {"image": 1200000, "text": 800000},
    }
    (folder / "config.json").write_text(json.dumps(record))


def write_history(folder, steps=200):
    lines = []
    for step in range(10, steps + 1, 10):
        values = {"loss": 5 / step, "temperature_scale": 14 + step / 10, "learning_rate": 1e-3, "unheard_of": step}
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
    assert 'class="missing"' not in page.replace("<noscript><p class=", "")  # only for readers without scripts
    for said in (
        EQUATION,
        "Image-to-text R@1",
        "nearest by pixels",
        "Kendall τ",
        "clamp 100",
        "Modality gap",
    ):
        assert said in page
    assert "Unheard of" in page and "Novel · val" in page  # unknown metrics are plotted too


def test_page_is_well_formed_and_self_contained(page):
    collected = Collector(page)
    assert collected.open == [] and collected.strays == []
    for tag, attributes in collected.tags:
        assert tag != "link"
        for name in ("src", "href", "action", "data", "poster"):
            value = attributes.get(name) or ""
            assert value.startswith(("#", "data:")) or not value, (tag, value)
    inside = re.sub(r"data:image/webp;base64,[A-Za-z0-9+/=]+", "", page).replace(UPLOT_BANNER, "", 1)
    assert not OUTSIDE.search(inside)
    assert len(page) < 3_000_000


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_a_browser_draws_every_chart_and_shows_values(page, tmp_path):
    """The scripts run without an error, and two presses of an arrow key move all charts to the step before the last."""
    press = "document.querySelector('.plot').dispatchEvent(new KeyboardEvent('keydown', {key: 'ArrowLeft'}));"
    (tmp_path / "page.html").write_text(
        page.replace("</body>", f"<script>{2 * press}</script></body>"), encoding="utf-8"
    )
    flags = ("--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=5000", "--enable-logging=stderr")
    command = [CHROMIUM, *flags, "--dump-dom", f"file://{tmp_path}/page.html"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert "Uncaught" not in done.stderr
    tags = Collector(done.stdout).tags
    assert sum(tag == "canvas" for tag, _ in tags) == page.count("data-chart=") + 1  # and the map
    values = re.findall(r'<td class="u-value">(.*?)</td>', done.stdout)
    assert values.count("190") == page.count("data-chart=") + 1  # the steps, and the metric whose value is the step
    assert "0.02632" in values


def test_every_image_has_a_text_and_every_id_is_unique(page):
    tags = Collector(page).tags
    ids = [attributes["id"] for _, attributes in tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    images = [attributes for _, attributes in tags if attributes.get("role") == "img"]
    assert len(images) > 50
    assert all(attributes.get("aria-label") for attributes in images)


def test_captions_cannot_break_out(page):
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert" in page
    assert json.loads(inline_json({"a": HOSTILE})) == {"a": HOSTILE}
    assert not re.search("[<>&]", inline_json([HOSTILE, "\u2028"]))


def test_data_of_the_map_is_whole(page):
    data = json.loads(re.search(r'id="map-data">(.*?)</script>', page, re.DOTALL)[1])
    assert data["texts"]["caption"][0] == HOSTILE
    assert len(data["images"]["x"]) == 30 and len(data["texts"]["x"]) == 31
    assert data["texts"]["rank"][-1] == 0 and data["images"]["own"] == list(range(30))
    assert all(0 <= x <= data["grid"] for axis in "xy" for x in data["images"][axis])
    assert [len(row) for row in data["images"]["texts"]] == [5] * 30
    assert all(n not in row for n, row in enumerate(data["images"]["near"]))


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
        ("evaluation", "this section needs <code>embeddings.npz</code>"),
    ):
        assert (sentence in page) == (name != part)


@pytest.mark.parametrize("spoil", [0.0, 1.0, np.nan])
def test_a_collapsed_model_still_has_a_report(tmp_path, spoil):
    write_embeddings_of(tmp_path, spoil=spoil)
    page = write_report(tmp_path).read_text(encoding="utf-8")
    assert "NaN" not in re.search(r'id="map-data">(.*?)</script>', page, re.DOTALL)[1]


def test_a_single_image_has_a_report(tmp_path):
    split = EvalSplit("val", np.zeros((1, 8, 8, 3), np.uint8), np.array([0]), ("one",), np.array([0]))
    write_embeddings(tmp_path, SplitEmbeddings(np.ones((1, 4)) / 2, np.ones((1, 4)) / 2), split)
    assert "one" in write_report(tmp_path).read_text(encoding="utf-8")


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
