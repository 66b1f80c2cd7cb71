"""`python -m rankclip_jax.benchmark evaluate`: its cases, and the dense computation as an independent witness."""

import json
from types import SimpleNamespace

import pytest

from rankclip_jax.benchmark import evaluate, runner
from rankclip_jax.benchmark.dense_metrics import dense_metrics
from rankclip_jax.benchmark.worker import InProcess
from rankclip_jax.errors import UserError
from rankclip_jax.evals.embeddings import SplitEmbeddings
from rankclip_jax.evals.registry import EVALS
from rankclip_jax.evals.split import evaluate_embeddings


def chosen(**changed):
    given = {"images": ["30"], "captions_per_image": 2, "classes": 4, "dim": 8, "dense_up_to": 2**25}
    return SimpleNamespace(**given | changed)


def test_dense_metrics_equal_ours():
    embeds, split = evaluate.random_split(300, 900, 12, 24)
    found = evaluate_embeddings(SplitEmbeddings(*embeds), split, tuple(EVALS))
    counts = {key for key in found if key.endswith("_queries")}
    expected = dense_metrics(embeds, split)
    assert {key: value for key, value in found.items() if key not in counts} == pytest.approx(expected, abs=1e-9)
    assert 0.1 < found["random/image_to_text_R@1"] < 1 and 0.2 < found["random/image_to_text_NDCG@10"] < 1


def test_cases_and_their_table(monkeypatch):
    (cases,) = evaluate.groups(chosen())
    named = [(case["metrics"], case["computed_by"]) for case in cases]
    assert named[0] == ("all", "rankclip_jax") and named[-1] == ("all", "dense numpy")
    assert {name for name, _ in named} == {"all", *EVALS}
    monkeypatch.setattr(runner, "Worker", lambda name, case: InProcess(evaluate.build, case))
    rows = runner.measure("evaluate", evaluate.BENCHMARK, cases, rounds=0)
    assert all(row["seconds"] > 0 and row["base"] == "all" and row["captions"] == 60 for row in rows)
    assert len(runner.describe(evaluate.BENCHMARK, json.loads(json.dumps(rows))).splitlines()) == 2 + len(cases)


def test_a_size_that_is_too_large_has_no_dense_case():
    (cases,) = evaluate.groups(chosen(dense_up_to=30 * 60 - 1))
    assert {case["computed_by"] for case in cases} == {"rankclip_jax"}


@pytest.mark.parametrize("images", [["12", "x"], [], ["0"]])
def test_wrong_sizes(images):
    with pytest.raises(UserError, match=r"--images=.*: expected positive whole numbers, such as 1000,5000"):
        evaluate.groups(chosen(images=images))
