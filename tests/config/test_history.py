"""The history of a run's config: what a change records, which checkpoints are on the branch, and how it is undone."""

import itertools
import json

import pytest

from configs import emoji
from rankclip_jax.config.history import describe, history_of, is_on_branch, new_change, undone
from rankclip_jax.config.record import as_json
from rankclip_jax.errors import UserError
from rankclip_jax.trees import flatten


def record(digest="d", history=(), **changes):
    config = emoji.get_config("mu")
    config.update_from_flattened_dict(changes)
    data = {"digest": digest, "counts": {"train": 5, "a.json": 2}}
    return as_json({"config": config.to_dict(), "data": data, "changes": list(history)})


def test_a_change_has_the_keys_that_differ_with_both_values():
    now = record("e", **{"optimizer.learning_rate": 0.5, "log.every": "7", "checkpoint.keep": 9})
    now["config"]["new"] = {"key": [1]}
    change = new_change(40, record(), now)
    assert change["step"] == 40 and change["time"].startswith("20")
    assert change["changed"] == {
        "config.new.key": {"new": [1]},
        "config.optimizer.learning_rate": {"old": 0.003, "new": 0.5},
        "data.digest": {"old": "d", "new": "e"},
    }
    said = 'config.new.key (absent) -> [1]; config.optimizer.learning_rate 0.003 -> 0.5; data.digest "d" -> "e"'
    assert describe(change["changed"]) == said
    assert json.loads(json.dumps(change)) == change


@pytest.mark.parametrize("key, value", [("model.image.layers", 3), ("tokenizer.vocab_size", 300), ("init_from", "run")])
def test_keys_that_the_weights_depend_on_cannot_change(key, value):
    with pytest.raises(UserError, match=rf"^config\.{key} .* this key cannot change in a run; begin another --workdir"):
        new_change(1, record(), record(**{key: value}))


def test_changes_are_undone_one_by_one():
    values = [record(), *(record("e", **{"optimizer.learning_rate": rate}) for rate in (0.5, 2.0))]
    values[2]["config"]["new"], history = {"a": {"b": 1}}, []
    for step, (old, new) in enumerate(itertools.pairwise(values), 1):
        history.append(new_change(step, old, new))
    values[2]["changes"] = history
    for count, expected in enumerate(values):
        found = undone(values[2], count)
        assert dict(flatten(found)) == dict(flatten({"config": expected["config"], "data": expected["data"]}))


def test_the_branch_of_a_checkpoint():
    first, second, other = ({"step": step, "time": str(step)} for step in (400, 300, 350))
    history = [first, second]
    assert is_on_branch(300, [], history) and is_on_branch(100, [], history)
    assert not is_on_branch(400, [], history)  # before the first change, and later than the second
    assert is_on_branch(300, [], history[:1]) and is_on_branch(400, [], history[:1])
    assert not is_on_branch(500, [], history[:1])
    assert not is_on_branch(350, [first], history) and is_on_branch(300, [first], history)
    assert is_on_branch(900, history, history)
    assert not is_on_branch(100, [other], history) and not is_on_branch(100, history, [first])


def test_a_record_without_history():
    assert history_of(None) == [] and history_of({"config": {}, "data": {}}) == []
