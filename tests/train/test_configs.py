"""Configs: every one builds, none is long, and no key is dead, misspelt or forgotten."""

import ast
import importlib
import re
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

import pytest

import rankclip_jax
from rankclip_jax.config import base
from rankclip_jax.config.changes import MAY_CHANGE
from rankclip_jax.config.resolve import DURATIONS, resolve
from rankclip_jax.data.sources import SOURCES
from rankclip_jax.evals import linear_probe
from rankclip_jax.models.presets import PRESETS
from rankclip_jax.models.two_towers import build_towers
from rankclip_jax.objectives import RunInfo, build_objective
from rankclip_jax.training.optimizer import learning_rate_schedule, make_optimizer
from rankclip_jax.trees import flatten
from tests.support.paths import GOLDEN, ROOT

# Every config file, with the arguments that it knows.
VARIANTS = {
    "base": (None, *PRESETS, "ViT-B/32,clip"),
    "cc3m_vit_b32": (None, "tuned", "tuned,clip", "runlocal"),
    "emoji": (None, "rankclip", "clip", "mu"),
    "finetune": (str(GOLDEN / "weights" / "clip"),),
}
EXAMPLES = {"cc3m_vit_b32": 2_806_772}  # one user's count; the others are for thousands
CONFIGS = ROOT / "configs"
PACKAGE = Path(rankclip_jax.__file__).parent
KEYS = dict(flatten(base.get_config()))


def get_config(name: str, variant: str | None):
    module = importlib.import_module(f"configs.{name}")
    return module.get_config(*([variant] if variant else []))


def test_every_config_file_is_tested_here():
    assert {path.stem for path in CONFIGS.glob("*.py")} == set(VARIANTS)


@pytest.mark.parametrize("name, variant", [(name, variant) for name in VARIANTS for variant in VARIANTS[name]])
def test_a_config_builds(name, variant):
    examples = EXAMPLES.get(name, 4608)
    config = resolve(get_config(name, variant), examples=examples, device_count=1)
    assert config.data.name in SOURCES
    build_towers(config.model, 1000, 999)
    build_objective(config.objective, RunInfo(config.duration, examples // config.batch_size))
    make_optimizer(config.optimizer, learning_rate_schedule(config.optimizer, config.duration))
    unknown = [key for key, _ in flatten(config) if key not in KEYS and not key.startswith("model.")]
    assert not unknown, unknown


def test_deltas_are_short():
    lengths = {path.name: len(path.read_text().splitlines()) for path in CONFIGS.glob("*.py") if path.stem != "base"}
    assert max(lengths.values()) <= 40, lengths


def syntax_trees() -> Iterator[ast.AST]:
    for path in PACKAGE.rglob("*.py"):
        yield from ast.walk(ast.parse(path.read_text(encoding="utf-8")))


def reads() -> set[tuple[str, str]]:
    """(a, b) for each ``a.b`` and ``x.a.b`` in the package."""
    found = set()
    for node in syntax_trees():
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name | ast.Attribute):
            owner = node.value.id if isinstance(node.value, ast.Name) else node.value.attr
            found.add((owner, node.attr))
    return found


def test_every_key_is_read_somewhere():
    read = reads()
    modules = (importlib.import_module(f"rankclip_jax.data.sources.{name}") for name in ("emoji", "assemble"))
    options = {f"data.{name}" for module in modules for name in module.OPTIONS}
    options |= {f"eval.linear_probe.{name}" for name in linear_probe.DEFAULTS}
    dead = []
    for key in KEYS.keys() - options:
        section, _, leaf = key.rpartition(".")
        owners = {"config", section.rpartition(".")[2]}
        if not key.startswith("model.") and not owners & {owner for owner, name in read if name == leaf}:
            dead.append(key)  # those of the model are fields of the towers, which `build_towers` checks
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


def test_durations_are_durations():
    """Every key of a duration's name holds one, and every string that is one has such a name."""
    leaves = {key.rpartition(".")[2] for key in KEYS}
    assert set(DURATIONS) <= leaves
    durations = {key for key, value in KEYS.items() if re.fullmatch(r"[\d.e]+ ?(steps|epochs|examples|%)?", str(value))}
    written = {key for key in durations if isinstance(KEYS[key], str)}
    assert written == {key for key in KEYS if key.rpartition(".")[2] in DURATIONS}
