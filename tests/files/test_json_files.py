"""JSON files: checked against an example, and one line for every kind of damage."""

import json
import os

import pytest

from rankclip_jax.errors import UserError
from rankclip_jax.files.json_files import EACH, misfit, read_json, read_text

LIKE = {"step": 0, "metrics": {EACH: 0.0}, "names": [""], "on?": True, "any?": None}
FITS = {"step": 3, "metrics": {"a": 1, "b": 0.5}, "names": ["x", "y"]}


@pytest.mark.parametrize("more", [{}, {"names": []}, {"metrics": {}}, {"on": False, "any": [1]}, {"unknown": None}])
def test_what_fits(more):
    assert misfit(FITS | more, LIKE) == ""


@pytest.mark.parametrize(
    "changes, problem",
    [
        ({"step": 3.5}, "step is a number instead of a whole number"),
        ({"step": True}, "step is a boolean instead of a whole number"),
        ({"step": None}, "step is null instead of a whole number"),
        ({"metrics": [1]}, "metrics is a list instead of an object"),
        ({"metrics": {"a": "1"}}, "metrics.a is a text instead of a number"),
        ({"metrics": {"a": float("inf")}}, "metrics.a is not a finite number"),
        ({"metrics": {"a": 10**400}}, "metrics.a is not a finite number"),
        ({"names": "x"}, "names is a text instead of a list"),
        ({"names": ["x", 3]}, "names[1] is a whole number instead of a text"),
        ({"on": 1}, "on is a whole number instead of a boolean"),
    ],
)
def test_what_does_not_fit_is_named(changes, problem):
    assert misfit(FITS | changes, LIKE) == problem


def test_a_missing_key_is_named():
    assert misfit({}, LIKE) == "it has no 'step'"
    assert misfit([], LIKE) == "it is a list instead of an object"
    assert misfit({"a": {}}, {"a": {"b": 0}}) == "a has no 'b'"


@pytest.mark.parametrize(
    "content, problem",
    [
        (b"", "Expecting value"),
        (b'{"step": 3, "metr', "Unterminated string"),
        (b'{"step": NaN}', "NaN is no JSON number"),
        (b"[" * 200_000, "nested too deeply"),
        (b'{"step": ' + b"9" * 5000 + b"}", "Exceeds the limit"),
        (b'{"step": "\xe9"}', "no text"),
        (b'{"step": 3}', "it has no 'metrics'"),
    ],
)
def test_damage_is_one_line(tmp_path, content, problem):
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(UserError) as caught:
        read_json(tmp_path / "x.json", LIKE, "do something")
    said = str(caught.value)
    assert said.startswith(f"{tmp_path}/x.json is damaged (") and said.endswith("): do something")
    assert problem in said and "\n" not in said and len(said) < 400


def test_a_file_that_is_none(tmp_path):
    assert read_json(tmp_path / "x.json", LIKE, "") is None
    (tmp_path / "link").symlink_to("nowhere")
    (tmp_path / "loop").symlink_to("loop")
    assert read_text(tmp_path / "link", "") is None
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "endless").symlink_to("/dev/zero")
    for path in (tmp_path, tmp_path / "loop", tmp_path / "pipe", tmp_path / "endless"):
        with pytest.raises(UserError, match=r"cannot be read \(.*\): restore it"):
            read_text(path, "restore it")


def test_a_huge_file_is_not_read(tmp_path):
    with (tmp_path / "x.json").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(UserError, match=r"has 1,048,576 MiB, more than 256: restore it"):
        read_json(tmp_path / "x.json", {}, "restore it")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_another_encoding_is_no_damage(tmp_path, encoding):
    (tmp_path / "x.json").write_text(json.dumps(FITS), encoding=encoding)
    assert read_json(tmp_path / "x.json", LIKE, "") == FITS
