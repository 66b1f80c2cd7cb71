"""`python -m rankclip_jax.benchmark encode`: cases, a run of each task, invalid flags."""

from types import SimpleNamespace

import numpy as np
import pytest

from rankclip_jax.benchmark import encode
from rankclip_jax.benchmark.noise_tars import make_images
from rankclip_jax.benchmark.timed_run import timed_run
from rankclip_jax.errors import UserError

CHOSEN = {
    "model": "mu",
    "frameworks": ["jax", "torch"],
    "tasks": list(encode.TASKS),
    "images": 5,
    "calls": 2,
    "batch": 4,
}


def test_cases(monkeypatch):
    monkeypatch.setattr(encode, "DISTINCT", 2)
    groups = list(encode.groups(SimpleNamespace(**CHOSEN)))
    assert [[(case["task"], case["framework"]) for case in group] for group in groups] == [
        [(task, framework) for framework in ("jax", "torch")] for task in ("image", "caption", "images")
    ]
    assert [(group[0]["items"], group[0]["calls"]) for group in groups] == [(1, 2), (1, 2), (5, 1)]
    assert encode.BENCHMARK.is_base(groups[0][0], groups[0][1]) and not encode.BENCHMARK.is_base(*[groups[0][0]] * 2)


@pytest.mark.parametrize(("flag", "value", "message"), [("tasks", "imag", "task 'imag'"), ("frameworks", "tf", "'tf'")])
def test_mistakes(flag, value, message):
    with pytest.raises(UserError, match=f"unknown .*{message}"):
        list(encode.groups(SimpleNamespace(**CHOSEN | {flag: [value]})))


@pytest.mark.parametrize(("task", "items", "shape"), [("images", 3, (3, 16)), ("caption", 1, (1, 16))])
def test_a_run_encodes_all_items(task, items, shape, tmp_path, monkeypatch):
    for i, image in enumerate(make_images(np.random.default_rng(0), 2, (64, 80))):
        (tmp_path / f"{i}.jpg").write_bytes(image)
    seen, make = [], encode.jax_model

    def noted(case):
        *functions, device = make(case)
        return *((lambda items, f=f: seen.append(f(items).shape)) for f in functions), device

    monkeypatch.setattr(encode, "jax_model", noted)
    case = {"task": task, "framework": "jax", "items": items, "calls": 2, "model": "mu", "folder": str(tmp_path)}
    built = encode.build(case)
    assert built.columns["seconds_to_first"] > 0 and seen == [(1, 16)]
    row = built.columns | timed_run(built.run)
    assert seen[1:] == [shape] * 2
    derived = {name: function(row) for name, function in encode.BENCHMARK.derived.items()}
    assert derived["ms_per_call"] == pytest.approx(500 * row["seconds"])
    assert derived["items_per_second"] == pytest.approx(2 * items / row["seconds"])
