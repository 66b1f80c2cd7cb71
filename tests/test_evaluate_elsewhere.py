"""`evaluate` on other data than the run's, with results in another folder, and in folders that cannot be written."""

import json
import os
import shutil

import pytest
from ml_collections import ConfigDict

from rankclip_jax import evaluate as module
from rankclip_jax.errors import UserError
from rankclip_jax.evaluate import data_name, evaluate
from rankclip_jax.report import write_report
from tests.support import commands
from tests.test_evaluate import PROGRAM, known, run_folder, tiny

pytestmark = pytest.mark.xdist_group("evaluate")
__all__ = ["known", "run_folder"]  # fixtures


@pytest.fixture
def run(run_folder, tmp_path):
    return shutil.copytree(run_folder, tmp_path / "run")


def config_of(digest, root=""):
    return ConfigDict(
        {
            "data": {"name": "tiny", "digest": digest, "root": root},
            "eval": {"metrics": ["retrieval"], "report_split": ""},
        }
    )


def results_in(path):
    return json.loads(path.read_text())


def test_other_data_are_stored_under_their_own_name(run):
    own = evaluate(run)
    found = evaluate(run, config=config_of("aa" * 8, "/sets/flickr/"))
    assert {key.rpartition("/")[0] for key in found["metrics"]} == {"flickr/val", "flickr/test_style"}
    assert found["metrics"]["flickr/val/image_to_text_R@1"] == own["metrics"]["val/image_to_text_R@1"]
    assert results_in(run / "eval_on" / "flickr.json") == found | {"digest": "aa" * 8}
    assert results_in(run / "eval.json") == own
    again = evaluate(run, "best", config=config_of("bb" * 8, "/other/flickr"))  # other data of the same name
    assert results_in(run / "eval_on" / "flickr-bbbbbbbb.json") == again | {"digest": "bb" * 8}
    evaluate(run, "best", config=config_of("aa" * 8, "/sets/flickr"))
    assert results_in(run / "eval_on" / "flickr.json")["step"] == 10
    page = write_report(run).read_text()
    for said in ("Retrieval on flickr", "Retrieval on flickr-bbbbbbbb", "flickr/test_style", "Step 10."):
        assert said in page, said


def test_the_same_data_under_another_config_are_the_runs_own(run):
    found = evaluate(run, config=config_of("0123456789abcdef", "/moved"))
    assert results_in(run / "eval.json") == found and set(found["metrics"]) > {"val/image_to_text_R@1"}
    assert not (run / "eval_on").exists()


def test_results_never_replace_those_of_another_run(run, tmp_path):
    other = shutil.copytree(run, tmp_path / "other")
    with pytest.raises(UserError, match="is the folder of another run, whose results would be replaced"):
        evaluate(run, out=other)
    evaluate(run, out=f"{run}/.")  # its own


def test_named_splits_of_other_data_are_only_printed(run):
    found = evaluate(run, splits=["val"], config=config_of("aa" * 8, "/sets/flickr"))
    assert {key.rpartition("/")[0] for key in found["metrics"]} == {"flickr/val"}
    assert not (run / "eval_on").exists()


def test_the_command_says_where_the_results_are(capsys, run, tmp_path):
    (tmp_path / "other.py").write_text(
        "from tests.test_evaluate_elsewhere import config_of\ndef get_config():\n    return config_of('cc' * 8)\n"
    )
    code, out, err = commands.run_code(capsys, PROGRAM, run, f"--config={tmp_path}/other.py", "--config.data.root=x/y")
    assert code == 0, err
    assert f"eval_on/y.json written; python -m rankclip_jax.report {run} updates the report" in out
    assert any(line.startswith("y/test_style") for line in out.splitlines())


@pytest.mark.parametrize(
    ("root", "name"),
    [
        ("", "tiny"),
        ("/", "tiny"),
        ("sets/coco", "coco"),
        ("C:\\sets\\coco\\", "coco"),
        ("s3://bucket/My set", "My_set"),
        ("https://user:secret@host/sets/x?token=secret#secret", "x"),
        ("https://user:secret@host", "host"),
        ("https://host/..?sig=secret", "tiny"),
    ],
)
def test_names_of_data_hold_no_secret(root, name):
    config = config_of("", root)
    assert data_name(config, tiny(config.data)) == name


def read_only(monkeypatch, folder):
    """A folder that cannot be written, also for root."""
    real = module.make_writable.__globals__["tempfile"].TemporaryFile

    def refuse(dir):
        if os.path.samefile(dir, folder):
            raise OSError(30, os.strerror(30))
        return real(dir=dir)

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)


def test_a_folder_that_cannot_be_written(run, tmp_path, monkeypatch):
    read_only(monkeypatch, run)
    before = sorted(path.name for path in run.rglob("*"))
    for action in (lambda: evaluate(run), lambda: write_report(run)):
        with pytest.raises(UserError, match=rf"cannot write to {run} \(Read-only file system\): add --out=DIR for the"):
            action()
    assert evaluate(run, splits=["val"])["step"] == 20
    out = tmp_path / "results"
    found = evaluate(run, out=out)
    other = evaluate(run, out=out, config=config_of("aa" * 8, "/sets/flickr"))
    assert results_in(out / "eval.json") == found
    assert results_in(out / "eval_on" / "flickr.json") == other | {"digest": "aa" * 8}
    page = write_report(run, out)
    assert page == out / "report.html"
    for said in ("flickr/val", 'id="map-data"'):
        assert said in page.read_text()
    assert sorted(path.name for path in run.rglob("*")) == before


def test_out_that_is_a_file(run, tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match=r"cannot write to .*file \(File exists\): add --out=DIR"):
        evaluate(run, out=tmp_path / "file")
    (run / "eval.json").mkdir()
    with pytest.raises(UserError, match=r"eval\.json is a folder, and a file is to be written there: move it away"):
        evaluate(run)


def test_results_are_told_before_a_disk_is_full(run, monkeypatch):
    def full(*arguments):
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr("os.fsync", full)
    told = []
    with pytest.raises(OSError, match="No space left on device") as caught:
        evaluate(run, tell=told.append)
    assert told[0]["step"] == 20 and "val/image_to_text_R@1" in told[0]["metrics"]
    assert caught.value.filename == str(run / "eval.json")  # which the command names
