"""The command `captions`, and its file of second captions, which training reads."""

import json

import pytest

from configs import emoji
from rankclip_jax.data.commands.captions import sentence
from rankclip_jax.data.sources import SOURCES
from rankclip_jax.errors import UserError
from tests.support.data_commands import config_of


def test_captions_by_keywords_are_second_captions(run_data, pairs_folder, tmp_path):
    out = tmp_path / "second.jsonl"
    text = run_data("captions", config_of(pairs_folder), f"--out={out}", "--template=this shows {}.", "--batch=5")
    assert "24 second captions written" in text and "2 pairs are unreadable" in text
    train = SOURCES["csv"](config_of(pairs_folder, second_captions=str(out)).data).train
    indices = {train.key(i): i for i in range(len(train))}
    assert train.second_captions(indices["cmyk.jpg"]) == ("this shows printed.",)
    assert train[indices["good3.jpg"]].second_captions == ("this shows image and number.",)
    with pytest.raises(ValueError, match="no second caption"):
        train.second_captions(indices["silent.jpg"])
    whole = out.read_text()
    out.write_text(whole[: len(whole) // 2])  # killed in the middle of a line
    run_data("captions", config_of(pairs_folder), f"--out={out}", "--template=this shows {}.")
    assert out.read_text() == whole


def test_a_sentence_of_keywords():
    assert sentence(["A dog on the snow.", "The dog runs"], "an image of {}", 5) == "an image of dog, snow and runs"
    assert sentence(["A dog on the snow."], "{}!", 1) == "dog!"
    with pytest.raises(ValueError, match="no keyword"):
        sentence(["of the 42"], "{}", 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--template=nothing",), "must have one {}"),
        (("--by=no/such-model",), "no/such-model"),
    ],
)
def test_mistakes_of_captions(run_data, pairs_folder, tmp_path, arguments, message):
    with pytest.raises(UserError) as caught:
        run_data("captions", config_of(pairs_folder), f"--out={tmp_path / 'x.jsonl'}", *arguments)
    assert message in str(caught.value)


def test_captions_never_change_another_file(run_data, pairs_folder, tmp_path):
    other = tmp_path / "notes.txt"
    other.write_text("my notes\n")
    with pytest.raises(UserError, match="is not a file of second captions"):
        run_data("captions", config_of(pairs_folder), f"--out={other}")
    assert other.read_text() == "my notes\n"
    with pytest.raises(UserError, match="'emoji' has second captions"):
        run_data("captions", emoji.get_config("mu"))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"key": "a"}', "line 1: expected"),
        ("nonsense", "line 1: expected"),
        ('{"key": "a", "second_caption": 3}', "line 1: expected"),
    ],
)
def test_an_invalid_line_is_named(pairs_folder, tmp_path, line, message):
    (tmp_path / "second.jsonl").write_text(line + "\n")
    with pytest.raises(UserError, match=message):
        SOURCES["csv"](config_of(pairs_folder, second_captions=str(tmp_path / "second.jsonl")).data)
    with pytest.raises(UserError, match=r"cannot read config\.data\.second_captions"):
        SOURCES["csv"](config_of(pairs_folder, second_captions=str(tmp_path / "missing.jsonl")).data)


def test_the_digest_covers_second_captions(pairs_folder, tmp_path):
    digests = set()
    for name in ("one", "two"):
        (tmp_path / "second.jsonl").write_text(json.dumps({"key": "cmyk.jpg", "second_caption": name}) + "\n")
        digests.add(SOURCES["csv"](config_of(pairs_folder, second_captions=str(tmp_path / "second.jsonl")).data).digest)
    assert len(digests | {SOURCES["csv"](config_of(pairs_folder).data).digest}) == 3
