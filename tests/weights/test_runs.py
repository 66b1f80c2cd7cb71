"""Export of a run with its results, `weights check`, and the report of an imported folder."""

import json
import re
import sys

import numpy as np
import pytest

from rankclip_jax.config import base
from rankclip_jax.data.images.resize import parse_resize
from rankclip_jax.errors import UserError
from rankclip_jax.evals.results import EVAL_FILE
from rankclip_jax.evaluate import evaluate, probe
from rankclip_jax.inference.load import encoder_of, read_model
from rankclip_jax.models.two_towers import build_towers
from rankclip_jax.report import write_report
from rankclip_jax.weights import check as checking
from rankclip_jax.weights.check import LIMIT, check, table
from rankclip_jax.weights.export import export
from rankclip_jax.weights.folder import write_imported
from rankclip_jax.weights.formats.source import read_source
from rankclip_jax.weights.reference import ReferenceModel
from tests.support import commands, processes, runs

pytestmark = pytest.mark.xdist_group("trouble")  # shares the fixture `short_run`


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
    """{(split, metric): (value, chance)} in the table of the card."""
    found = re.findall(r"^\| (\S+) \| (.+) \| (-?[\d.]+) \| (-?[\d.]*) \|$", card, re.MULTILINE)
    return {(split, metric): (value, chance) for split, metric, value, chance in found}


def cells(key):
    """ "val/image_to_text_R@1" as the card shows it."""
    split, metric = key.split("/", 1)
    return split, metric.replace("_to_", "-to-").replace("_", " ")


def test_the_card_has_the_results_of_the_run_and_chance(run, exported):
    results, card = json.loads((run / EVAL_FILE).read_text()), (exported / "README.md").read_text()
    assert "20 steps of 32 pairs with the objective `rankclip` on `emoji`" in card and "Results at step 20:" in card
    found = rows_of(card)
    assert ("val", "image-to-text R@1") in found
    assert len(found) == len(results["metrics"])
    for name, metric in results["metrics"].items():
        value, chance = found[cells(name)]
        assert float(value) == pytest.approx(metric, abs=1e-4)
        expected = results["chance"].get(name)
        assert (chance == "") == (expected is None)
        assert expected is None or float(chance) == pytest.approx(expected, abs=1e-4)
    head = card.split("---")[1]
    assert "library_name: transformers" in head and "pipeline_tag: zero-shot-image-classification" in head


def test_the_card_has_no_results_of_another_step(run, tmp_path):
    older = runs.checkpoint_steps(run)[0]
    export(run, "open_clip", tmp_path / "older", step=older)
    card = (tmp_path / "older" / "README.md").read_text()
    assert older != 20 and f"{older} steps of 32 pairs" in card and rows_of(card) == {} and "Results" not in card


def test_the_exported_weights_are_those_of_the_checkpoint(run, exported):
    ours, theirs = encoder_of(read_model(run)), encoder_of(read_model(exported))
    texts = ["red heart", "two dogs"]
    np.testing.assert_array_equal(ours.encode_text(texts), theirs.encode_text(texts))
    assert ours.temperature_scale == theirs.temperature_scale


# The report and the card of an imported folder.


@pytest.fixture(scope="module")
def evaluated(imported):
    """The report before an evaluation, and the results of the evaluation and of the linear probe."""
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
    assert set(rows_of(card)) == {cells(name) for result in evaluated[1:] for name in result["metrics"]}


# `check` with a simulated library, since torch is not required. `test_check_libraries` uses the real ones.


OWN = "text embeddings, its own tokens"


def simulated(path, image=0.0, text=0.0, token=0, grey=0.0):
    """A library that computes what this package does, plus the given errors."""
    encoder = encoder_of(model := read_model(path))
    towers = build_towers(model.config, model.tokenizer.vocab_size, model.tokenizer.eot_id)
    variables = {"params": model.weights.params["towers"], **model.weights.model_state}

    def embed(pixels, tokens):
        config = model.config.image
        unit = pixels.transpose(0, 2, 3, 1) * np.array(config.pixel_std) + np.array(config.pixel_mean)
        images = encoder.encode_image(np.round(255 * unit).astype(np.uint8)) + image
        texts = np.asarray(towers.apply(variables, tokens, method="encode_text")) + text
        return images, texts, encoder.temperature_scale * images @ texts.T

    def pixels(images):
        resize = parse_resize(model.config.image.resize)
        values = np.stack([resize(image, model.config.image.image_size) for image in images]) / 255
        normal = (values - np.array(model.config.image.pixel_mean)) / np.array(model.config.image.pixel_std)
        return normal.transpose(0, 3, 1, 2) + grey

    def tokens(texts):
        found = encoder.tokenize(texts)
        found[0, 1] += token
        return found

    return ReferenceModel("transformers 0", tokens, pixels, embed)


def checked(monkeypatch, exported, run, **errors):
    monkeypatch.setattr(checking, "open_reference", lambda folder, model: simulated(exported, **errors))
    return {row.what: row for row in check(exported, run, count=6)}


def test_a_library_with_the_same_results_passes(monkeypatch, exported, run):
    rows = checked(monkeypatch, exported, run)
    assert all(row.holds for row in rows.values()) and "DIFFERS" not in table(list(rows.values()))
    assert rows["logits"].count == "6 x 6" and rows["image embeddings"].limit == LIMIT == 1e-4


@pytest.mark.parametrize(
    ("errors", "differs"),
    [
        ({"image": 2e-4}, {"image embeddings", "logits"}),
        ({"text": 2e-4}, {"text embeddings", "logits", OWN}),
        ({"image": np.nan}, {"image embeddings", "logits"}),
        ({"token": 1}, {"different tokens, cleaned texts", OWN}),
        ({"grey": 0.03}, {"pixels"}),
    ],
)
def test_a_library_with_other_results_fails(monkeypatch, exported, run, errors, differs):
    rows = checked(monkeypatch, exported, run, **errors)
    assert {what for what, row in rows.items() if not row.holds} == differs
    assert table(list(rows.values())).count("DIFFERS") == len(differs)


def test_weights_of_another_checkpoint_differ(monkeypatch, exported, run):
    monkeypatch.setattr(checking, "open_reference", lambda folder, model: simulated(exported))
    rows = check(exported, run, step=runs.checkpoint_steps(run)[0], count=6)
    assert not rows[0].holds and not rows[1].holds


@pytest.mark.parametrize("error, expected", [(0.0, 0), (0.001, 2)])
def test_the_exit_code_is_2_if_results_differ(capsys, monkeypatch, exported, run, error, expected):
    monkeypatch.setattr(checking, "open_reference", lambda folder, model: simulated(folder, text=error))
    arguments = ("check", exported, f"--against={run}", "--images=4")
    code, out, err = commands.run_module(capsys, "rankclip_jax.weights", *arguments)
    assert code == expected, err
    assert ("DIFFERS" in out) == (expected == 2)
    assert (err == "") == (expected == 0) and err.count("\n") <= 1


def test_mistakes_of_a_check(monkeypatch, exported, run):
    with pytest.raises(UserError, match="is a run folder of rankclip_jax: give an exported folder"):
        check(run)
    with pytest.raises(UserError, match=r"--images=0 must be at least 1"):
        check(exported, run, count=0)
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(UserError, match=r"needs torch: pip install -e '\.\[torch\]'"):
        check(exported, run)
