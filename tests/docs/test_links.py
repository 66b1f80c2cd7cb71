"""README and docs: every key, command, file and config that they name is there."""

import importlib
import importlib.util
import re

import pytest

from rankclip_jax.config import base
from rankclip_jax.data.commands import COMMANDS
from rankclip_jax.data.sources import SOURCES
from rankclip_jax.trees import flatten
from tests.support.paths import ROOT

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
# Together they have the keys of every kind of tower and the options that the pages speak of.
KEYS = {key for variant in ((), ("RN50", "cyclip")) for key, _ in flatten(base.get_config(*variant))}
pages = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


@pages
def test_keys(page):
    sections = {key.rpartition(".")[0] for key in KEYS}
    named = set(re.findall(r"--config\.([a-z_]+(?:\.[a-z_]+)*)(?![a-z_.]*=?KEY)", page.read_text()))
    assert named <= KEYS | sections


@pages
def test_commands(page):
    text = page.read_text()
    for module in re.findall(r"python -m (rankclip_jax[\w.]*)", text):
        assert importlib.util.find_spec(module.rstrip(".")), module
    for command in re.findall(r"python -m rankclip_jax\.data (\w+)", text):
        assert command in COMMANDS


@pages
def test_files_and_configs(page):
    text = page.read_text()
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", text):
        assert (page.parent / target).exists(), target
    for name, argument in re.findall(r"configs/(\w+)\.py(?::([\w/,-]+))?", text):
        config = importlib.import_module(f"configs.{name}")
        if (name, argument) not in (("finetune", "runs/imported"), ("emoji", "hinge")):  # what the reader makes
            config.get_config(*([argument] if argument else []))


def test_every_format_is_explained():
    text = (ROOT / "docs" / "data.md").read_text()
    assert {name for name in SOURCES if f"`{name}`" not in text} == set()
