"""The folder of compiled programs: where it is, who chooses it, and a folder that cannot be written."""

from pathlib import Path

import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache as programs_of_jax

from rankclip_jax import compilation_cache, train
from rankclip_jax.compilation_cache import default_folder, enable
from rankclip_jax.config import base

KEYS = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")


@pytest.fixture
def no_folder():
    """JAX as it is without the tests' own folder."""
    before = {key: getattr(jax.config, key) for key in KEYS}
    jax.config.update("jax_compilation_cache_dir", None)
    programs_of_jax.reset_cache()
    yield
    for key, value in before.items():
        jax.config.update(key, value)
    programs_of_jax.reset_cache()


def test_the_default_folder_is_in_the_users_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    in_home = tmp_path / ".cache" / "rankclip_jax" / "compiled"
    assert default_folder({}).parent == default_folder({"XDG_CACHE_HOME": ""}).parent == in_home
    assert default_folder({"XDG_CACHE_HOME": "relative"}).parent == in_home
    assert default_folder({"XDG_CACHE_HOME": "/var/x"}).parent == Path("/var/x/rankclip_jax/compiled")


def test_each_kind_of_cpu_has_a_folder(tmp_path, monkeypatch):
    folders = set()
    for flags in ("sse4 avx2", "sse4 avx2 avx512f", "sse4 avx2"):
        info = tmp_path / "cpuinfo"
        info.write_text("".join(f"processor : {i}\nmodel name : X\nMHz : {i}\nflags : {flags}\n" for i in range(2)))
        monkeypatch.setattr(compilation_cache, "CPU_INFO", info)
        folders.add(default_folder({}))
    assert len(folders) == 2
    monkeypatch.setattr(compilation_cache, "CPU_INFO", tmp_path / "missing")
    assert default_folder({}).parent.name == "compiled"


def test_compiled_programs_are_kept(tmp_path, no_folder):
    folder = enable({"XDG_CACHE_HOME": str(tmp_path)})
    assert jax.config.jax_persistent_cache_min_compile_time_secs == 0.1
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.jit(lambda x: x * 3 + 1)(2.0)
    assert folder.is_relative_to(tmp_path) and list(folder.glob("*-cache"))


@pytest.mark.parametrize("chosen_by", ["environment", "jax.config"])
def test_a_folder_of_the_user_has_priority(tmp_path, no_folder, chosen_by):
    env = {"XDG_CACHE_HOME": str(tmp_path)}
    if chosen_by == "environment":
        env["JAX_COMPILATION_CACHE_DIR"] = "/somewhere"
    else:
        jax.config.update("jax_compilation_cache_dir", str(tmp_path / "own"))
    before = jax.config.jax_compilation_cache_dir
    assert enable(env) is None
    assert jax.config.jax_compilation_cache_dir == before and not (tmp_path / "rankclip_jax").exists()


def test_the_users_shortest_compilation_has_priority(tmp_path, no_folder):
    before = jax.config.jax_persistent_cache_min_compile_time_secs
    enable({"XDG_CACHE_HOME": str(tmp_path), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "7"})
    assert jax.config.jax_persistent_cache_min_compile_time_secs == before  # JAX has read the variable itself


@pytest.mark.parametrize("obstacle", ["file", "permissions"])
def test_without_a_writable_folder_programs_are_compiled(tmp_path, no_folder, monkeypatch, obstacle):
    if obstacle == "file":
        (tmp_path / "rankclip_jax").write_text("in the way")
    else:
        monkeypatch.setattr(compilation_cache.os, "access", lambda path, mode: False)  # root may write everywhere
    assert enable({"XDG_CACHE_HOME": str(tmp_path)}) is None
    assert jax.config.jax_compilation_cache_dir is None
    assert jax.jit(lambda x: x * 5 + 1)(2.0) == 11


@pytest.mark.parametrize("wanted", [True, False])
def test_the_config_decides(monkeypatch, wanted):
    called = []
    monkeypatch.setattr(compilation_cache, "enable", lambda: called.append("enable"))
    monkeypatch.setattr(train, "train", lambda config, workdir, *rest: called.append(workdir))
    config = base.get_config()
    config.compilation_cache = wanted
    train.start(config, "runs/x")
    assert called == (["enable", "runs/x"] if wanted else ["runs/x"])
