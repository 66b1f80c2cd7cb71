"""`python -m rankclip_jax.evaluate` on a run folder that is made without training."""

import json

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from rankclip_jax import evaluate as module
from rankclip_jax.config.base import get_config
from rankclip_jax.data.records import Dataset, EvalSplit, RecordSource
from rankclip_jax.data.sources import SOURCES
from rankclip_jax.data.text.tokenizer import TOKENIZERS
from rankclip_jax.errors import UserError
from rankclip_jax.evals.results import EMBEDDINGS_FILE, EVAL_FILE
from rankclip_jax.evaluate import describe, evaluate
from rankclip_jax.inference.load import load
from rankclip_jax.models.presets import get_preset
from rankclip_jax.models.two_towers import build_towers
from rankclip_jax.objectives import RunInfo, build_objective, objective_config
from rankclip_jax.parallel.mesh import make_mesh
from rankclip_jax.run_folder import CHECKPOINTS
from rankclip_jax.training.optimizer import make_optimizer
from rankclip_jax.training.step import create_state, make_init
from tests.support import commands, processes
from tests.support.run_folders import write_run

pytestmark = pytest.mark.xdist_group("evaluate")  # one run folder for all
OPTIMIZER = get_config("mu").optimizer
CONCEPTS = 12


def tiny(config):
    """Random images; all evaluation images are training images. `config.digest` stands for the content."""
    ids = np.arange(CONCEPTS)
    images = np.random.default_rng(0).integers(0, 256, (CONCEPTS, 8, 8, 3), np.uint8)

    def split(name, kept):
        texts = tuple(f"noise {i}" for i in ids[kept])
        return EvalSplit(name, images[kept], ids[kept], texts, ids[kept])

    train = RecordSource()
    train.images, train.concept_ids = images, ids
    evals = {"val": split("val", slice(0, 5)), "test_style": split("test_style", slice(0, 8))}
    return Dataset("tiny", train, evals, config.digest, {"train": CONCEPTS, "val": 5, "test_style": 8})


@pytest.fixture(autouse=True)
def known(monkeypatch):
    monkeypatch.setitem(SOURCES, "tiny", tiny)


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    """A run with different weights at steps 10 and 20; step 10 has the better score on `val`."""
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    model = get_preset("mu")
    model.image.layers = model.text.layers = 1
    config = ConfigDict(
        {
            "model": model,
            "data": {"name": "tiny", "digest": "0123456789abcdef"},
            "eval": {"metrics": ["retrieval", "geometry"], "report_split": "test_style"},
        }
    )
    tokenizer = TOKENIZERS["bpe"](("noise 0 1 2 3 4 5 6 7 8 9",), 300, model.text.context_length)
    towers = build_towers(model, tokenizer.vocab_size, tokenizer.eot_id)
    objective = build_objective(objective_config("clip"), RunInfo(20, 5))
    mesh = make_mesh(jax.devices()[:1])
    init = make_init(towers, objective, make_optimizer(OPTIMIZER, lambda step: 1e-3))
    scores = {10: 0.9, 20: 0.1}
    states = {step: (create_state(init, jax.random.key(step), mesh), score) for step, score in scores.items()}
    data = {"name": "tiny", "digest": config.data.digest, "counts": {}}
    return write_run(folder, config, data, tokenizer, states)


@pytest.fixture
def run(run_folder):
    for name in (EVAL_FILE, EMBEDDINGS_FILE):
        (run_folder / name).unlink(missing_ok=True)
    return run_folder


def test_all_splits_are_written_as_training_does(run):
    results = evaluate(run)
    assert json.loads((run / EVAL_FILE).read_text()) == results
    assert results["step"] == 20
    for part in ("metrics", "chance", "pixels"):
        assert {key.split("/")[0] for key in results[part]} == {"val", "test_style"}
    assert results["pixels"]["val/image_to_text_R@1"] == 1.0  # they are training images
    shown = tiny(ConfigDict({"digest": ""})).evals["test_style"]
    with np.load(run / EMBEDDINGS_FILE) as arrays:
        np.testing.assert_allclose(arrays["image_embeds"], load(run).encode_image(shown.images), atol=1e-3)


def test_step_chooses_the_checkpoint(run):
    best, newest = evaluate(run, "best"), evaluate(run)
    assert (best["step"], newest["step"]) == (10, 20)
    assert best["metrics"] != newest["metrics"]
    assert best["chance"] == newest["chance"]
    assert evaluate(run, 10) == evaluate(run / CHECKPOINTS / "10") == best
    assert json.loads((run / EVAL_FILE).read_text())["step"] == 10


def test_results_of_named_splits_are_not_written(run):
    results = evaluate(run, splits=["val"])
    assert {key.split("/")[0] for part in ("metrics", "chance", "pixels") for key in results[part]} == {"val"}
    assert not (run / EVAL_FILE).exists()
    assert not (run / EMBEDDINGS_FILE).exists()


def test_tables(run):
    text = describe(evaluate(run))
    lines = text.splitlines()
    assert lines[0] == "step 20"
    assert any(line.startswith("Retrieval. R@K") and "percent" in line for line in lines)
    pixels = next(line.split() for line in lines if line.startswith("val") and " pixels " in line)
    assert pixels[2:5] == ["100.0", "100.0", "100.0"]  # R@1, R@5, R@10
    table = [line for line in lines if line.startswith(("split", "val", "test_style"))][:7]
    ends = {line.rstrip()[-1] for line in table[1:]}
    assert all(end.isdigit() for end in ends) and len({len(line) for line in table}) == 1  # flush right


PROGRAM = """
import sys
from rankclip_jax import cli
from tests.test_evaluate import SOURCES, module, tiny
SOURCES["tiny"] = tiny
sys.argv = ["evaluate", *sys.argv[1:]]
module.define_flags()
cli.run(module.main, positional=True)
"""


def test_the_command(run):
    code, out, err = processes.run(PROGRAM, run, "--step=best", "--splits=val,test_style", seconds=120)
    assert (code, out.splitlines()[0]) == (0, "step 10"), err
    assert "test_style" in out and "written" not in out
    code, out, err = processes.run(PROGRAM, run, seconds=120)
    assert code == 0 and "eval.json and embeddings.npz written" in out, err
    assert (run / EVAL_FILE).exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "expected one run folder, found 0"),
        (("RUN", "again"), "expected one run folder, found 2"),
        (("RUN/checkpoint",), "no run at RUN/checkpoint: config.json is missing"),
        (("RUN", "--splits=vall"), "unknown evaluation split 'vall'. Did you mean 'val'?"),
        (("RUN", "--step=7"), "no intact checkpoint '7' in RUN/checkpoints"),
        (("RUN", "--stpe=7"), "unknown flag --stpe. Did you mean 'step'?"),
    ],
)
def test_mistakes_are_one_line(capsys, run, arguments, message):
    code, _, err = commands.run_code(capsys, PROGRAM, *(argument.replace("RUN", str(run)) for argument in arguments))
    assert code == 2
    assert err.startswith(f"error: {message}".replace("RUN", str(run)))
    assert err.count("\n") == 1
    assert not (run / EVAL_FILE).exists()


def test_changed_data_are_an_error(run, monkeypatch):
    other = ConfigDict({"digest": "fedcba9876543210"})
    monkeypatch.setitem(SOURCES, "tiny", lambda config: tiny(other))
    monkeypatch.setattr(module, "load", None)  # nothing may be loaded before the check
    with pytest.raises(UserError, match=r"digest is fedcba987654, the run's 0123456789ab.*Restore that data"):
        evaluate(run)
    assert not (run / EVAL_FILE).exists()
