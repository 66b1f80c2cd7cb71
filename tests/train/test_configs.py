"""Configs: each one builds and trains, none is long, and no key is unused, misspelt or forgotten."""

import ast
import dataclasses
import importlib
import json
import re
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

import numpy as np
import pytest

import rankclip_jax
from rankclip_jax.config import base
from rankclip_jax.config.changes import MAY_CHANGE
from rankclip_jax.config.resolve import DURATIONS, resolve
from rankclip_jax.data.sources import SOURCES
from rankclip_jax.data.sources.options import EmojiOptions, FileOptions
from rankclip_jax.evals import linear_probe
from rankclip_jax.models.presets import PRESETS
from rankclip_jax.models.two_towers import build_towers
from rankclip_jax.objectives import RunInfo, build_objective
from rankclip_jax.run_folder import read_metrics
from rankclip_jax.train import train
from rankclip_jax.training.optimizer import learning_rate_schedule, make_optimizer
from rankclip_jax.trees import flatten
from tests.support import tar_files
from tests.support.paths import GOLDEN, ROOT

# Every config file, with arguments that it accepts.
VARIANTS = {
    "base": (None, *PRESETS, "ViT-B/32,clip"),
    "cc3m_vit_b32": (None, "tuned", "tuned,clip", "runlocal"),
    "emoji": (None, "rankclip", "clip", "mu"),
    "finetune": (str(GOLDEN / "weights" / "clip"),),
}
EXAMPLES = {"cc3m_vit_b32": 2_806_772}  # one user's count; the others are for thousands
# The arguments of the config that is trained at test size.
TRAINED = {"base": "mu", "cc3m_vit_b32": "runlocal", "emoji": "mu", "finetune": str(GOLDEN / "weights" / "clip")}
SHRUNK = {
    "batch_size": 8,
    "duration": "2 steps",
    "optimizer.warmup": "1 steps",
    "log.every": "1 steps",
    "log.tensorboard": False,
    "eval.metrics": ("retrieval",),
    "eval.report_split": "val",
}
CONFIGS = ROOT / "configs"
PACKAGE = Path(rankclip_jax.__file__).parent
KEYS = dict(flatten(base.get_config()))


def get_config(name: str, variant: str | None):
    module = importlib.import_module(f"configs.{name}")
    return module.get_config(*([variant] if variant else []))


def test_every_config_file_is_tested_here():
    assert {path.stem for path in CONFIGS.glob("*.py")} == set(VARIANTS) == set(TRAINED)


@pytest.mark.parametrize("name, variant", [(name, variant) for name in VARIANTS for variant in VARIANTS[name]])
def test_a_config_builds(name, variant):
    examples = EXAMPLES.get(name, 4608)
    config = resolve(get_config(name, variant), examples=examples)
    assert config.data.name in SOURCES
    build_towers(config.model, 1000, 999)
    build_objective(config.objective, RunInfo(config.duration, examples // config.batch_size))
    make_optimizer(config.optimizer, learning_rate_schedule(config.optimizer, config.duration))
    unknown = [key for key, _ in flatten(config) if key not in KEYS and not key.startswith("model.")]
    assert not unknown, unknown


def shrunk(name, folder):
    """The config at test size: towers of one layer, a small vocabulary and few pairs."""
    config = get_config(name, TRAINED[name])
    config.update_from_flattened_dict(SHRUNK)
    if name != "finetune":  # which has the towers and the tokenizer of its weights
        config.model.image.layers = config.model.text.layers = 1
        config.tokenizer.update({"name": "bpe", "vocab_size": 300})
    if name == "cc3m_vit_b32":
        tar_files.write_shards(folder / "cc3m", [40, 30])
        config.data.root = str(folder / "cc3m")
    else:
        config.data.train_limit = 16
    return config


@pytest.mark.parametrize("name", TRAINED)
def test_a_config_trains(name, tmp_path):
    metrics = train(shrunk(name, tmp_path), str(tmp_path / "run"))
    assert 0 <= metrics["val/image_to_text_R@1"] <= 1
    losses = [line["train/loss"] for line in read_metrics(str(tmp_path / "run")) if "train/loss" in line]
    assert len(losses) == 2 and np.isfinite(losses).all()
    record = json.loads((tmp_path / "run" / "config.json").read_text())
    assert record["data"]["counts"]["train"] == {"cc3m_vit_b32": 62}.get(name, 16)
    assert record["data"]["counts"]["val"] == 8 or name != "cc3m_vit_b32"
    assert record["config"]["duration"] == 2 and "clip" in record["objective_equation"].lower()
    assert (tmp_path / "run" / "report.html").exists()


def test_deltas_are_short():
    lengths = {path.name: len(path.read_text().splitlines()) for path in CONFIGS.glob("*.py") if path.stem != "base"}
    assert max(lengths.values()) <= 40, lengths


def syntax_trees() -> Iterator[ast.AST]:
    for path in PACKAGE.rglob("*.py"):
        yield from ast.walk(ast.parse(path.read_text(encoding="utf-8")))


def reads() -> set[tuple[str, str]]:
    """(a, b) for each ``a.b`` and ``x.a.b`` in the package, and ("config", b) for names in tuples and values of dicts,
    by which ``config[name]`` is read."""
    found = set()
    for node in syntax_trees():
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name | ast.Attribute):
            owner = node.value.id if isinstance(node.value, ast.Name) else node.value.attr
            found.add((owner, node.attr))
        values = node.elts if isinstance(node, ast.Tuple) else node.values if isinstance(node, ast.Dict) else ()
        found |= {("config", x.value) for x in values if isinstance(x, ast.Constant) and isinstance(x.value, str)}
    return found


def test_every_key_is_read_somewhere():
    read = reads()
    options = {f"data.{field.name}" for kind in (FileOptions, EmojiOptions) for field in dataclasses.fields(kind)}
    options |= {f"eval.linear_probe.{name}" for name in linear_probe.DEFAULTS}
    dead = []
    for key in KEYS.keys() - options:
        section, _, leaf = key.rpartition(".")
        owners = {"config", section.rpartition(".")[2]}
        if not key.startswith("model.") and not owners & {owner for owner, name in read if name == leaf}:
            dead.append(key)  # keys of the model are fields of the towers, which `build_towers` checks
    assert not dead, dead


def test_messages_name_keys_that_exist():
    sections = {key.rsplit(".", depth)[0] for key in KEYS for depth in (1, 2)}
    texts = [node.value for node in syntax_trees() if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    named = {key for text in texts for key in re.findall(r"--config\.([a-z_.0-9]*[a-z_0-9])\b(?!\()", text)}
    named |= {key for text in texts for key in re.findall(r"(?<![-\w`])config\.([a-z_.0-9]*[a-z_0-9])\b(?!\()", text)}
    known = {*KEYS, *sections, "json", "jsonl", "py", "resolve", "value"}
    assert {"optimizer.learning_rate", "eval.report_split", "mesh.fsdp"} <= named
    assert not named - known, named - known


def test_what_a_restart_may_change():
    matched = {pattern: [key for key in KEYS if fnmatch(key, pattern)] for pattern in MAY_CHANGE}
    assert all(matched.values()), matched
    may_change = {key for keys in matched.values() for key in keys}
    assert {"eval.every", "checkpoint.keep", "log.every", "data.num_threads", "data.prefetch"} <= may_change
    sections = {key.partition(".")[0] for key in may_change}
    assert not sections & {"seed", "batch_size", "duration", "tokenizer", "model", "objective", "optimizer"}
    assert not may_change & {"data.name", "data.styles", "data.train_limit", "data.augment"}


def test_durations_are_recognised_by_name():
    """A key has the name of a duration if and only if its value is one."""
    leaves = {key.rpartition(".")[2] for key in KEYS}
    assert set(DURATIONS) <= leaves
    durations = {key for key, value in KEYS.items() if re.fullmatch(r"[\d.e]+ ?(steps|epochs|examples|%)?", str(value))}
    written = {key for key in durations if isinstance(KEYS[key], str)}
    assert written == {key for key in KEYS if key.rpartition(".")[2] in DURATIONS}
