"""Secrets in the URLs of data never reach the files of a run, the cache, or what commands print."""

import csv
import json

import pytest

from tests.support import commands, runs
from tests.support.http_files import serving
from tests.support.pair_files import COUNT, caption, write_images, write_tars

SECRET = "hunter2"
FLAGS = (
    "--config.data.name=csv",
    "--config.data.train_limit=0",
    "--config.data.val_pairs=8",
    "--config.data.max_bad_fraction=1.0",
    "--config.batch_size=16",
    "--config.duration=3",
    "--config.log.tensorboard=True",
)


@pytest.fixture
def locations(tmp_path, monkeypatch):
    """Flags for a table, whose images are URLs, and tars: all on a server, with passwords and tokens."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = tmp_path / "served"
    names = write_images(folder)
    write_tars(folder / "tars", range(COUNT))
    with serving(folder) as server:
        base = server.url.replace("://", f"://me:{SECRET}@")
        with (folder / "pairs.csv").open("w", newline="") as file:
            rows = [(f"{base}/{name}?X-Amz-Signature={SECRET}%2F{n}", caption(n)) for n, name in enumerate(names)]
            csv.writer(file).writerows([("filepath", "title"), *rows, (f"{base}/none.jpg?token={SECRET}", "gone")])
        tars = f"webdataset:{base}/tars/{{00000..00002}}.tar?sig={SECRET}"
        yield f"--config.data.train={base}/pairs.csv?token={SECRET} | {tars}"


def with_secret(folder):
    """Files below `folder` that have the secret in their name or content, the server's files aside."""
    files = [path for path in folder.rglob("*") if path.is_file() and "served" not in path.parts]
    assert len(files) > 10
    return [str(path) for path in files if SECRET.encode() in path.read_bytes() or SECRET in str(path)]


def test_a_run_on_urls_with_secrets(tmp_path, locations, capsys):
    run = tmp_path / "run"
    printed = [runs.train(run, *FLAGS, locations)]
    assert printed[0][0] == 0, printed[0][2]
    assert json.loads((run / "config.json").read_text())["config"]["data"]["train"].count("REDACTED") == 4
    config = ("--config=configs/emoji.py:mu", *FLAGS[:-3], locations)
    for arguments in (
        ("rankclip_jax.report", run),
        ("rankclip_jax.evaluate", run),
        ("rankclip_jax.evaluate", run, *config, "--config.eval.report_split=val"),
        ("rankclip_jax.data", "index", *config),
        ("rankclip_jax.data", "stats", *config),
        ("rankclip_jax.data", "validate", *config, f"--out={tmp_path / 'bad.jsonl'}"),
        ("rankclip_jax.data", "captions", *config, f"--out={tmp_path / 'second.jsonl'}"),
        ("rankclip_jax.data", "stats", *config[:-1], locations.replace("pairs.csv", "none.csv")),
    ):
        printed.append(commands.run_module(capsys, *arguments))
    assert [code for code, _, _ in printed] == [0, 0, 2, 0, 0, 0, 0, 0, 2], printed
    assert "the secrets of" in printed[2][2] and "not stored with the run" in printed[2][2]
    assert SECRET not in "".join(out + err for _, out, err in printed)
    assert with_secret(tmp_path) == []
