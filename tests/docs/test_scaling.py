"""The tables of docs/scaling.md hold the figures of the results beside it, each from a command that the page prints."""

import json

import pytest

from tests.support.paths import ROOT

FOLDER = ROOT / "docs" / "scaling"
PAGE = (ROOT / "docs" / "scaling.md").read_text()
FILES = sorted(FOLDER.glob("*.json"))
GiB, MB = 2**30, 10**6


def row(result) -> str:
    """The row of one compiled step."""
    sent = {kind: each["bytes"] / MB for kind, each in result["collectives"].items()}
    others = sum(sent.values()) - sent.get("all-gather", 0)
    estimates = [result[name] for name in ("roofline", "compiler") if result[name]]
    times = " to ".join(f"{1e3 * each['seconds']:,.0f}" for each in estimates)
    mfu = " to ".join(f"{each['mfu']:.0%}" for each in reversed(estimates))
    cells = (
        f"{result['model']}, {result['topology']}",
        result["objective"],
        f"{result['batch_size']:,}",
        result["mesh"]["fsdp"],
        result["micro_batches"],
        f"{result['memory_bytes']['arguments'] / GiB:.2f}",
        f"{result['memory_bytes']['temporaries'] / GiB:.2f}",
        f"{result['memory_bytes']['total'] / GiB:.2f} of {result['hbm_bytes'] / GiB:.0f}",
        f"{sent.get('all-gather', 0):,.0f}",
        f"{others:,.0f}",
        times,
        mfu,
        f"{result['compile_seconds']:.0f}",
    )
    return f"| {' | '.join(map(str, cells))} |"


def ratio_row(clip, rankclip) -> str:
    """The row that compares RankCLIP's step with CLIP's."""
    ratios = [rankclip[name]["seconds"] / clip[name]["seconds"] for name in ("roofline", "compiler") if clip[name]]
    memory = rankclip["memory_bytes"]["total"] - clip["memory_bytes"]["total"]
    times = " to ".join(f"{ratio:.2f}" for ratio in sorted(ratios))
    where = f"{clip['model']}, {clip['topology']}"
    return f"| {where} | {clip['batch_size']:,} | {times} | {memory / GiB:+.2f} GiB |"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_tables_hold_the_results(path):
    results = {result["objective"]: result for result in json.loads(path.read_text())}
    for result in results.values():
        assert row(result) in PAGE
    if {"clip", "rankclip"} <= set(results):
        assert ratio_row(results["clip"], results["rankclip"]) in PAGE
    commands = [line for line in PAGE.splitlines() if f"--out=docs/scaling/{path.name}" in line]
    assert len(commands) == 1
    for part in (f"--topology={result['topology']}", f"--batch_sizes={result['batch_size']}", result["model"]):
        assert part in commands[0]


def test_the_page_has_no_row_without_a_result():
    rows = [line for line in PAGE.splitlines() if line.startswith("| ViT-")]
    results = [json.loads(path.read_text()) for path in FILES]
    assert FILES and len(rows) == sum(len(each) + (len(each) == 2) for each in results)
