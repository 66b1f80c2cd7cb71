"""A run on its way out: exported with its results, compared by `check`, and its imported copy in a report."""

import json
import re
import sys

import numpy as np
import pytest

from rankclip_jax.config import base
from rankclip_jax.errors import UserError
from rankclip_jax.evals.results import EVAL_FILE
from rankclip_jax.evaluate import evaluate, probe
from rankclip_jax.inference.load import encoder_of, read_model
from rankclip_jax.report import write_report
from rankclip_jax.weights import check as checking
from rankclip_jax.weights.check import LIMIT, ReferenceModel, check, table
from rankclip_jax.weights.export import export
from rankclip_jax.weights.folder import write_imported
from rankclip_jax.weights.formats.source import read_source
from tests.support import processes, runs

pytestmark = pytest.mark.xdist_group("trouble")  # the same worker has made the same run


@pytest.fixture(scope="module")
def run(short_run):
    return short_run


@pytest.fixture(scope="module")
def exported(run, tmp_path_factory):
    out = tmp_path_factory.mktemp("exporting") / "exported"
    command = ("-m", "rankclip_jax.weights", "export", run, "--format=hf", f"--out={out}")
    code, said, err = processes.finish(processes.start_python(*command), 120)
    assert code == 0 and f"written to {out}" in said, err
    return out


@pytest.fixture(scope="module")
def imported(exported, tmp_path_factory):
    out = tmp_path_factory.mktemp("exporting") / "imported"
    write_imported(read_source(exported), out)
    return out


def rows_of(card):
    """{metric: (value, chance)} of the card's table."""
    found = re.findall(r"^\| (\S+/\S+) \| (-?[\d.]+) \| (-?[\d.]*) \|$", card, re.MULTILINE)
    return {name: (value, chance) for name, value, chance in found}


def test_the_card_has_the_runs_results_beside_chance(run, exported):
    results, card = json.loads((run / EVAL_FILE).read_text()), (exported / "README.md").read_text()
    assert "20 steps of 32 pairs with the objective `rankclip` on `emoji`" in card and "Results at step 20:" in card
    found = rows_of(card)
    assert found.keys() == results["metrics"].keys()
    for name, (value, chance) in found.items():
        assert float(value) == pytest.approx(results["metrics"][name], abs=1e-4)
        expected = results["chance"].get(name)
        assert (chance == "") == (expected is None)
        assert expected is None or float(chance) == pytest.approx(expected, abs=1e-4)
    head = card.split("---")[1]
    assert "library_name: transformers" in head and "pipeline_tag: zero-shot-image-classification" in head


def test_results_of_another_step_are_not_the_cards(run, tmp_path):
    older = runs.checkpoint_steps(run)[0]
    export(run, "open_clip", tmp_path / "older", step=older)
    card = (tmp_path / "older" / "README.md").read_text()
    assert older != 20 and f"{older} steps of 32 pairs" in card and rows_of(card) == {} and "Results" not in card


def test_what_leaves_is_the_checkpoint(run, exported):
    inside, outside = encoder_of(read_model(run)), encoder_of(read_model(exported))
    names = ["red heart", "two dogs"]
    np.testing.assert_array_equal(inside.encode_text(names), outside.encode_text(names))
    assert inside.temperature_scale == outside.temperature_scale


# The report and the card of an imported folder.


@pytest.fixture(scope="module")
def evaluated(imported):
    """The imported folder after an evaluation, the page of before, and the results."""
    page, config = write_report(imported).read_text(), base.get_config("mu")
    config.eval.metrics, config.eval.report_split, config.eval.linear_probe.epochs = ("retrieval",), "val", 1
    config.data.train_limit = 200
    return page, evaluate(imported, config=config), probe(imported, config=config)


def test_an_imported_folder_has_a_report(imported, evaluated):
    before = evaluated[0]
    assert "No training steps in <code>metrics.jsonl</code> yet" in before and "No evaluation yet" in before
    page = write_report(imported).read_text()
    for said in ("Retrieval", "Linear probe", "emoji/test_style", "nearest by pixels", "test_concept", 'id="map-data"'):
        assert said in page, said
    assert "No evaluation yet" not in page


def test_the_card_of_an_imported_folder(imported, evaluated, tmp_path):
    export(imported, "hf", tmp_path / "again")
    card = (tmp_path / "again" / "README.md").read_text()
    assert "\nResults:\n" in card and "exported (transformers CLIPModel)" in card and "at step" not in card
    assert set(rows_of(card)) == set(evaluated[1]["metrics"]) | set(evaluated[2]["metrics"])


# `check`, with another library in whose place there is a known one: torch is not among what the tests need.


def witness_of(path, image=0.0, text=0.0, token=0, grey=0.0):
    """A library that computes what we do, but for what is added."""
    encoder = encoder_of(model := read_model(path))

    def embed(pixels, tokens):
        shown = pixels.transpose(0, 2, 3, 1) * np.array(model.config.image.pixel_std) + np.array(
            model.config.image.pixel_mean
        )
        images = encoder.encode_image(np.round(255 * shown).astype(np.uint8)) + image
        texts = np.asarray(encoder._encode(encoder._text, len(tokens), tokens.__getitem__)) + text
        return images, texts, encoder.temperature_scale * images @ texts.T

    def pixels(images):
        values = np.stack([np.asarray(image) for image in images]) / 255
        normal = (values - np.array(model.config.image.pixel_mean)) / np.array(model.config.image.pixel_std)
        return normal.transpose(0, 3, 1, 2) + grey

    def tokens(names):
        found = encoder.tokenize(names)
        found[0, 1] += token
        return found

    return ReferenceModel("another", tokens, pixels, embed)


def checked(monkeypatch, exported, run, **spoilt):
    monkeypatch.setattr(checking, "open_witness", lambda folder, model: witness_of(exported, **spoilt))
    return {row.what: row for row in check(exported, run, count=6)}


def test_what_another_library_computes_alike_passes(monkeypatch, exported, run):
    rows = checked(monkeypatch, exported, run)
    assert all(row.holds for row in rows.values()) and "DIFFERS" not in table(list(rows.values()))
    assert rows["logits"].count == "6 x 6" and rows["image embeddings"].limit == LIMIT == 1e-4


@pytest.mark.parametrize(
    ("spoilt", "differs"),
    [
        ({"image": 2e-4}, {"image embeddings", "logits"}),
        ({"text": 2e-4}, {"text embeddings", "logits"}),
        ({"image": np.nan}, {"image embeddings", "logits"}),
        ({"token": 1}, {"other tokens, mended names"}),
        ({"grey": 0.03}, {"pixels"}),
    ],
)
def test_what_it_computes_otherwise_does_not(monkeypatch, exported, run, spoilt, differs):
    rows = checked(monkeypatch, exported, run, **spoilt)
    assert {what for what, row in rows.items() if not row.holds} == differs
    assert table(list(rows.values())).count("DIFFERS") == len(differs)


def test_weights_of_another_checkpoint_differ(monkeypatch, exported, run):
    monkeypatch.setattr(checking, "open_witness", lambda folder, model: witness_of(exported))
    rows = check(exported, run, step=runs.checkpoint_steps(run)[0], count=6)
    assert not rows[0].holds and not rows[1].holds


COMMAND = """
import sys
from rankclip_jax import cli
from rankclip_jax.weights import __main__ as command, check
from tests.weights.test_runs import witness_of
spoilt, *arguments = sys.argv[1:]
check.open_witness = lambda folder, model: witness_of(folder, text=float(spoilt))
sys.argv = ["weights", *arguments]
command.define_flags()
cli.run(command.main, positional=True)
"""


@pytest.mark.parametrize("spoilt, expected", [(0.0, 0), (0.001, 2)])
def test_the_command_ends_with_two_where_they_differ(exported, run, spoilt, expected):
    code, out, err = processes.run(COMMAND, spoilt, "check", exported, f"--against={run}", "--images=4", seconds=120)
    assert code == expected, err
    assert ("DIFFERS" in out) == (expected == 2)
    assert (err == "") == (expected == 0) and err.count("\n") <= 1


def test_mistakes_of_a_check(monkeypatch, exported, run):
    with pytest.raises(UserError, match="is a folder of our own: give an exported one"):
        check(run)
    with pytest.raises(UserError, match=r"--images=0: at least one is needed"):
        check(exported, run, count=0)
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(UserError, match=r"needs torch: pip install 'rankclip_jax\[torch\]'"):
        check(exported, run)
