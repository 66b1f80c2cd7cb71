"""Training that begins with given weights, and evaluation of weights that belong to no run."""

import json

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from configs import finetune
from rankclip_jax.config import base
from rankclip_jax.data.loader_options import loader_options
from rankclip_jax.errors import UserError
from rankclip_jax.evaluate import evaluate
from rankclip_jax.inference.load import read_model
from rankclip_jax.objectives import objective_config
from rankclip_jax.training import init_from as initial
from rankclip_jax.training import setup
from rankclip_jax.training.step import abstract_state, create_state, make_init
from rankclip_jax.weights.folder import write_imported
from rankclip_jax.weights.formats.source import read_source
from tests.golden.make_weights import FOLDER
from tests.support import commands, runs

pytestmark = pytest.mark.xdist_group("weights")
CLIP = str(FOLDER / "clip")


def small(config, **changes):
    config.batch_size, config.duration, config.data.train_limit = 8, "2 steps", 16
    config.update_from_flattened_dict(changes)
    return config


def started(config):
    """The parts, the start-up words, and the state that training begins with."""
    parts = setup.build(config)
    init, key = make_init(parts.towers, parts.objective, parts.optimizer, 0.9), jax.random.key(0)
    abstract, drawn = abstract_state(init, key, parts.mesh), create_state(init, key, parts.mesh)
    return initial.describe(abstract, parts.initial), drawn, initial.begin(drawn, parts.initial)


def by_path(tree):
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in jax.tree.leaves_with_path(tree)}


def xclip():
    """An objective with distribution heads, which the weights lack."""
    config = finetune.get_config(CLIP)
    config.objective = objective_config("xclip")
    config.model.heads.update(prototypes=8, hidden_width=8, hidden_layers=1)
    config.data.augment = "flip"
    return config


def test_training_begins_with_the_weights_and_draws_the_rest():
    model = read_model(CLIP)
    said, drawn, state = started(small(xclip()))
    assert "taken image, logit_scale, text; initialised image_head, text_head" in said and CLIP in said
    given, before = by_path(model.weights.params), by_path(drawn["params"])
    for params in (state["params"], state["ema"]["params"]):
        for name, array in by_path(params).items():
            np.testing.assert_array_equal(array, given.get(name, before[name]), err_msg=name)
    assert set(given) < set(before)


def test_images_that_are_not_square():
    """The loader makes them, and the towers read them; other sizes resize the position embeddings."""
    wide = str(FOLDER / "worldwide")
    config = small(finetune.get_config(wide), **{"data.augment": "random_resized_crop|flip"})
    said, _, state = started(config)
    assert "resized" not in said
    assert state["params"]["towers"]["image"]["positional_embedding"].shape == (1 + 3 * 2, 16)
    assert loader_options(config).augment(np.zeros((30, 20, 3), np.uint8), np.random.default_rng(0)).shape == (
        24,
        16,
        3,
    )
    with config.model.image.ignore_type():
        config.model.image.image_size = (32, 24)
    said, _, state = started(config)
    assert "image position embeddings resized from 24 x 16 to 32 x 24 pixels" in said
    assert state["params"]["towers"]["image"]["positional_embedding"].shape == (1 + 4 * 3, 16)


def test_another_image_size_and_a_shorter_text():
    config = small(finetune.get_config(CLIP), **{"model.image.image_size": 32, "model.text.context_length": 7})
    said, _, state = started(config)
    assert "image position embeddings resized from 16 x 16 to 32 x 32 pixels" in said
    assert "text position embeddings cut from 12 to 7" in said
    towers, old = state["params"]["towers"], read_model(CLIP).weights.params["towers"]
    assert towers["image"]["positional_embedding"].shape == (17, 24)
    np.testing.assert_array_equal(towers["image"]["positional_embedding"][0], old["image"]["positional_embedding"][0])
    np.testing.assert_array_equal(towers["text"]["positional_embedding"], old["text"]["positional_embedding"][:7])


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"model.text.activation": "quick_gelu"}, r"has model\.text\.activation='gelu' \(config: 'quick_gelu'\)"),
        ({"model.image.heads": 4}, r"has model\.image\.heads=3 \(config: 4\)"),
        ({"model.embed_dim": 12, "model.image.layers": 2, "model.image.heads": 2}, r"embed_dim=10 .*layers=1 "),
        ({"model.text.context_length": 20}, "is more than the 12 positions"),
        (
            {"tokenizer.name": "bpe", "tokenizer.vocab_size": 300},
            "another vocabulary .*tokenizer.name=from_weights",
        ),
        ({"init_from": ""}, r"config\.tokenizer\.name='from_weights' needs config\.init_from"),
        ({"init_from": "./nowhere"}, "no run at "),
    ],
)
def test_weights_that_do_not_fit_are_rejected(changes, message):
    with pytest.raises(UserError, match=message):
        setup.build(small(finetune.get_config(CLIP), **changes))


def test_towers_of_another_kind_are_rejected():
    with pytest.raises(UserError, match=r"has model\.embed_dim=10 .*model\.image\.tower='vit' \(config: 'convnet'\)"):
        setup.build(small(base.get_config("emoji"), init_from=CLIP))


def test_the_recipe_needs_weights():
    with pytest.raises(UserError, match=r"configs/finetune\.py needs weights"):
        finetune.get_config()


def test_a_run_from_weights_and_its_resume(capsys, tmp_path):
    """The command trains from an imported folder, and continues without it."""
    write_imported(read_source(CLIP), tmp_path / "imported")
    flags = ["--config.batch_size=8", "--config.duration=2", "--config.data.train_limit=16", *runs.SMALL[3:]]
    arguments = ["rankclip_jax.train", f"--config=configs/finetune.py:{tmp_path / 'imported'}", *flags]
    arguments += [f"--workdir={tmp_path / 'run'}", "--config.checkpoint.best_metric="]
    code, said, err = commands.run_module(capsys, *arguments)
    assert code == 0, err
    assert f"new, seed 0; from {tmp_path / 'imported'} (imported folder): taken image, logit_scale, text" in said
    trained = read_model(tmp_path / "run")
    assert trained.step == 2 and not trained.tokenizer.is_foreign
    drift = [np.abs(a - b).max() for a, b in zip(*map(leaves, (trained, read_model(CLIP))), strict=True)]
    assert 0 < max(drift) < 0.01
    (tmp_path / "imported" / "config.json").rename(tmp_path / "config.json")
    config = json.loads((tmp_path / "run" / "config.json").read_text())["config"]
    assert setup.read_initial(ConfigDict(config), str(tmp_path / "run")) is None


def leaves(model):
    return jax.tree.leaves(model.weights.params)


def test_weights_are_evaluated_on_the_data_of_a_config(tmp_path):
    config = small(base.get_config("mu"), **{"eval.metrics": ("retrieval",), "eval.report_split": "val"})
    with pytest.raises(UserError, match=r"names no data: add --config=configs/emoji\.py"):
        evaluate(CLIP)
    directly = evaluate(CLIP, splits=["val"], config=config)
    write_imported(read_source(CLIP), tmp_path / "out")
    with pytest.raises(UserError, match="names no data"):
        evaluate(tmp_path / "out")
    assert evaluate(tmp_path / "out", splits=["val"], config=config) == directly
    assert directly["step"] == 0 and "val/image_to_text_R@1" in directly["metrics"]
    with pytest.raises(UserError, match="foreign weights, which have no steps"):
        evaluate(CLIP, step=3, splits=["val"], config=config)
