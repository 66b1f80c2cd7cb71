"""The command line in several processes: the same run as in one, and after a kill -9 the same bits."""

import numpy as np
import pytest

import rankclip_jax
from rankclip_jax.evals.results import strings_of
from tests.support import processes, runs
from tests.support.pair_files import caption, write_csv, write_images

STEPS = 8
FLAGS = (
    f"--config.duration={STEPS}",
    "--config.checkpoint.every=2",
    "--config.checkpoint.best_metric=",
    "--config.eval.every=0",
    "--config.tokenizer.vocab_size=1024",
    "--config.model.text.width=128",  # wide enough for its embeddings to be split
)
pytestmark = pytest.mark.xdist_group("processes")


def start_two(workdir):
    # Parameters are split over all devices, so that each process has a part of them.
    flags = (*FLAGS, "--config.mesh.fsdp=8")
    return [runs.start(workdir, *flags, devices=4, env=own) for own in processes.environments(2)]


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("one")
    code, _, err = runs.train(workdir, *FLAGS)
    assert code == 0, err
    return workdir


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """(work folder, what `finish` gave for each process)."""
    workdir = tmp_path_factory.mktemp("two")
    results = processes.finish_all(start_two(workdir), 240)
    assert [code for code, _, _ in results] == [0, 0], results
    return workdir, results


SHORT = (
    "--config.duration=3",
    "--config.batch_size=8",
    "--config.data.name=csv",
    "--config.data.train=pairs.csv",
    "--config.data.val_pairs=6",
    "--config.data.train_limit=0",
    "--config.tokenizer.vocab_size=300",
    "--config.model.image.layers=1",
    "--config.model.text.layers=1",
    "--config.checkpoint.every=2",
)


def test_two_processes_train_the_run_of_one(tmp_path):
    """The short form of the slow tests below, with one device for each process."""
    rows = [(name, caption(number)) for number, name in enumerate(write_images(tmp_path))]
    write_csv(tmp_path, rows)
    one, two, flags = tmp_path / "one", tmp_path / "two", (*SHORT, f"--config.data.root={tmp_path}")
    code, _, err = runs.train(one, *flags)
    assert code == 0, err
    both = [runs.start(two, *flags, env=own) for own in processes.environments(2)]
    results = processes.finish_all(both, 240)
    assert [code for code, _, _ in results] == [0, 0], results
    assert "report: " in results[0][1] and "report: " not in results[1][1]
    expected, found = ([line["train/loss"] for line in losses(workdir)] for workdir in (one, two))
    assert len(found) == 3 and found == pytest.approx(expected, rel=1e-4)
    assert found[0] == pytest.approx(expected[0], rel=1e-6)


def losses(workdir) -> list[dict[str, float]]:
    return [line for line in runs.history(workdir) if "train/loss" in line]


@pytest.mark.slow
def test_one_process_speaks_for_all(two):
    workdir, ((_, first, _), (_, second, _)) = two
    assert "8 x cpu, 2 process(es), mesh {'replica': 1, 'fsdp': 8}" in first and "report: " in first
    assert "devices" not in second and "report: " not in second
    assert [line["step"] for line in losses(workdir)] == list(range(1, STEPS + 1))


@pytest.mark.slow
def test_the_metrics_of_one_process(one, two):
    expected, found = losses(one), losses(two[0])
    assert [line.keys() for line in found] == [line.keys() for line in expected]
    values = {
        name: np.array([[e[name], f[name]] for e, f in zip(expected, found, strict=True)])
        for name in found[0]
        if name.startswith("train/")
    }
    worst = {
        name: float(np.max(np.abs(x[:, 1] / np.where(x[:, 0], x[:, 0], 1) - 1) * (x[:, 0] != 0)))
        for name, x in values.items()
    }
    print(worst)
    # Before the first update there is rounding only; a batch that differed in one row would be seen here.
    assert found[0]["train/loss"] == pytest.approx(expected[0]["train/loss"], rel=1e-6)
    # Adam turns gradients that are zero but for rounding into whole steps, which do little to the loss.
    assert max(worst.values()) < 1e-3, worst


@pytest.mark.slow
def test_each_process_writes_its_part(two):
    parts = [two[0] / "checkpoints" / str(STEPS) / "state" / f"ocdbt.process_{index}" / "d" for index in (0, 1)]
    sizes = [sum(path.stat().st_size for path in part.iterdir()) for part in parts]
    assert min(sizes) > 0.3 * max(sizes), sizes


@pytest.mark.slow
def test_what_eight_devices_trained_loads_on_one(two):
    encoder = rankclip_jax.load(two[0])
    with np.load(two[0] / "embeddings.npz") as kept:
        texts = strings_of(kept)["texts"]
        np.testing.assert_allclose(encoder.encode_text(texts), kept["text_embeds"], atol=1e-3)


@pytest.mark.slow
def test_one_of_two_is_killed(two, tmp_path):
    both = start_two(tmp_path)
    try:
        runs.kill_when(both[1], lambda: runs.last_step(tmp_path) >= 5, 240)
        assert processes.finish(both[0], 60)[0] != 0  # it does not wait for ever for the other
    finally:
        both[0].kill()
    complete = runs.checkpoint_steps(tmp_path)
    results = processes.finish_all(start_two(tmp_path), 240)
    assert [code for code, _, _ in results] == [0, 0], results
    assert f"resumed from step {complete[-1]}" in results[0][1]
    expected, found = runs.arrays(two[0], STEPS), runs.arrays(tmp_path, STEPS)
    assert [path for path in expected if expected[path].tobytes() != found[path].tobytes()] == []
    assert losses(tmp_path) == losses(two[0])
