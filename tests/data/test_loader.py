"""The batch stream: a pure function of (seed, step), for any number of processes, bad records included."""

import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from rankclip_jax.data.bad_records import BadRecord, BadRecords
from rankclip_jax.data.loader import STRIDE, Plan
from rankclip_jax.data.records import Record, RecordSource
from rankclip_jax.data.text.tokenizer import train_tokenizer
from rankclip_jax.errors import UserError
from tests.support.loaders import make_loader

AUGMENT = "shift|flip|color_jitter"
KEYS = ("images", "tokens", "index")


class Source(RecordSource):
    """Images and captions that contain their index; records whose index is in `bad` cannot be read."""

    def __init__(self, num_records=100, bad=(), side=12):
        self.num_records, self.bad, self.side = num_records, frozenset(bad), side

    def __len__(self):
        return self.num_records

    def __getitem__(self, index):
        if index in self.bad:
            raise OSError(f"truncated file {index}")
        image = np.random.default_rng(index).integers(0, 256, (self.side, self.side, 3), np.uint8)
        return Record(self.key(index), image, self.captions(index))

    def key(self, index):
        return f"r{index}"

    def captions(self, index):
        return (f"number {index}", f"the image {index}", f"{index}")


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(["number image the"] * 2, 258, 24)


def take(loader, steps):
    """Batches of the next `steps` steps, stacked by key; closes the loader."""
    with loader:
        batches = [next(loader) for _ in range(steps)]
    return {key: np.stack([batch[key] for batch in batches]) for key in KEYS}


def make(tokenizer, source=None, **options):
    defaults = {"batch_size": 24, "seed": 3, "image_size": 12, "augment": AUGMENT, "keys": KEYS}
    return make_loader(source or Source(), tokenizer, **(defaults | options))


def assert_same(left, right):
    for key in KEYS:
        np.testing.assert_array_equal(left[key], right[key], err_msg=key)


# ---------------------------------------------------------------- the stream


def test_batches_have_their_shapes_and_belong_together(tokenizer):
    source = Source()
    batch = take(make(tokenizer, augment="none"), 1)
    assert batch["images"].shape == (1, 24, 12, 12, 3) and batch["images"].dtype == np.uint8
    assert batch["tokens"].shape == (1, 24, 24) and batch["tokens"].dtype == np.int32
    assert batch["index"].shape == (1, 24) and batch["index"].dtype == np.int64
    for image, tokens, index in zip(*(batch[key][0] for key in KEYS), strict=True):
        np.testing.assert_array_equal(image, source[index].image)
        assert tokenizer.decode(tokens) in source.captions(index)


def test_the_stream_depends_on_the_seed_and_not_on_threads(tokenizer):
    first = take(make(tokenizer), 8)
    for threads, prefetch in ((1, 1), (4, 3), (0, 0)):
        assert_same(first, take(make(tokenizer, num_threads=threads, prefetch=prefetch), 8))
    assert not np.array_equal(first["index"], take(make(tokenizer, seed=4), 8)["index"])


@pytest.mark.parametrize("start", [1, 3, 4, 7, 1_000_003])
def test_resume_is_bit_exact(tokenizer, start):
    """Four steps are an epoch here, so these starts are inside an epoch, at its end, and far beyond."""
    straight = take(make(tokenizer, start_step=max(0, start - 5)), min(start, 5) + 6)
    resumed = take(make(tokenizer, start_step=start), 6)
    assert_same({key: straight[key][-6:] for key in KEYS}, resumed)


def test_a_batch_has_exactly_the_keys_that_are_asked_for(tokenizer):
    everything = take(make(tokenizer), 3)
    for keys in (("images", "tokens"), ("tokens", "index"), ("index",)):
        with make(tokenizer, keys=keys) as loader:
            batches = [next(loader) for _ in range(3)]
        assert tuple(batches[0]) == keys
        for key in keys:
            np.testing.assert_array_equal(np.stack([batch[key] for batch in batches]), everything[key], err_msg=key)


def test_step_counts_batches(tokenizer):
    with make(tokenizer, start_step=5) as loader:
        assert loader.step == 5 and loader.steps_per_epoch == 4
        next(loader)
        next(loader)
        assert loader.step == 7


@pytest.mark.parametrize("process_count", [2, 4])
@pytest.mark.parametrize("batch_size", [24, 100])
def test_processes_together_give_the_global_batch(tokenizer, process_count, batch_size):
    source = Source(bad=(17,))
    options = {"batch_size": batch_size, "max_bad_fraction": 0.5, "start_step": 2}
    whole = take(make(tokenizer, source, **options), 5)
    parts = [
        take(make(tokenizer, source, process_index=i, process_count=process_count, **options), 5)
        for i in range(process_count)
    ]
    assert_same(whole, {key: np.concatenate([part[key] for part in parts], axis=1) for key in KEYS})


def test_an_epoch_has_no_record_twice_and_epochs_differ(tokenizer):
    index = take(make(tokenizer), 12)["index"].reshape(3, 96)
    for epoch in index:
        assert len(set(epoch.tolist())) == 96
    left_out = [set(range(100)) - set(epoch.tolist()) for epoch in index]
    assert left_out[0] != left_out[1] != left_out[2]
    assert (index[0] == index[1]).mean() < 0.1


def test_every_caption_and_augmentation_is_drawn_again(tokenizer):
    batches = take(make(tokenizer, Source(24), augment="shift(scale=0)"), 200)
    rows = batches["index"] == 5
    assert rows.sum() == 200
    captions = [tokenizer.decode(tokens) for tokens in batches["tokens"][rows]]
    counts = [captions.count(caption) for caption in Source().captions(5)]
    assert sum(counts) == 200 and min(counts) > 40  # 67 expected, standard deviation 6.7
    assert len({image.tobytes() for image in batches["images"][rows]}) == 9  # shifts by -1, 0 or 1 pixel on each axis


def test_plan_is_a_permutation_that_mixes():
    plan = Plan(1000, 10, seed=0)
    order = np.array([[plan.record(step, row) for row in range(10)] for step in range(100)]).ravel()
    np.testing.assert_array_equal(np.sort(order), np.arange(1000))
    assert abs(np.corrcoef(order, np.arange(1000))[0, 1]) < 0.1
    draws = {(step, row): plan.rng(step, row).random() for step in range(20) for row in range(20)}
    assert len(set(draws.values())) == 400


def test_plan_of_a_large_data_set_stores_no_order(monkeypatch):
    plan = Plan(2_000_000_000, 32_768, seed=0)
    draws = {plan.record(step, row) for step in (0, 61_034, 123_456_789) for row in range(100)}
    assert len(draws) == 300 and max(draws) < 2_000_000_000 and np.std(list(draws)) > 4e8
    monkeypatch.setattr("rankclip_jax.data.loader.MAX_STORED_ORDER", 0)
    test_plan_is_a_permutation_that_mixes()


def test_plan_of_more_records_than_32_bits_have():
    """300,000 draws of a random function on 5 billion values would have 9 collisions."""
    plan = Plan(5_000_000_000, 300_000, seed=0)
    draws = np.array([plan.record(3, row) for row in range(300_000)])
    assert len(np.unique(draws)) == 300_000 and draws.min() >= 0 and 2**32 < draws.max() < 5_000_000_000
    assert abs(draws.mean() / 2.5e9 - 1) < 0.01


@pytest.mark.parametrize("records", [1_100_000, 2_900_000, 2_000_000_000, 2**32 - 5])
def test_rows_next_to_each_other_are_independent(records):
    """With 4 rounds their correlation is 0.1 to 0.8; the standard deviation of its estimate is 0.007."""
    plan = Plan(records, 20_000, seed=0)
    draws = np.array([plan.record(5, row) for row in range(20_000)])
    assert abs(np.corrcoef(draws[:-1], draws[1:])[0, 1]) < 0.03


# ---------------------------------------------------------------- bad records


def test_bad_records_are_replaced_by_a_rule_and_counted(tokenizer):
    good = take(make(tokenizer), 8)
    with make(tokenizer, Source(bad=(17,)), max_bad_fraction=0.02) as loader:
        batches = [next(loader) for _ in range(8)]
        planned = np.concatenate(good["index"])
        assert loader.bad_records == (planned == 17).sum() > 0
    index = np.concatenate([batch["index"] for batch in batches])
    np.testing.assert_array_equal(index, np.where(planned == 17, (17 + STRIDE) % 100, planned))
    images = np.concatenate([batch["images"] for batch in batches])
    np.testing.assert_array_equal(images[planned != 17], np.concatenate(good["images"])[planned != 17])


def test_a_bad_substitute_is_replaced_in_turn(tokenizer):
    second = (17 + STRIDE) % 100
    batch = take(make(tokenizer, Source(bad=(17, second)), batch_size=100, max_bad_fraction=0.5), 1)
    assert not {17, second} & set(batch["index"].ravel().tolist())


def test_every_kind_of_fault_counts_as_a_bad_record(tokenizer):
    class Faulty(Source):
        def __getitem__(self, index):
            record = super().__getitem__(index)
            faults = {
                3: Record("r3", record.image[:, :, 0], record.captions),
                4: Record("r4", record.image / 255, record.captions),
                5: Record("r5", record.image, ()),
            }
            return faults.get(index, record)

    with make(tokenizer, Faulty(), batch_size=100, max_bad_fraction=0.5) as loader:
        assert not {3, 4, 5} & set(next(loader)["index"].tolist())
        assert loader.bad_records == 3


def test_the_ceiling_stops_the_run_and_names_ten(tokenizer, caplog):
    bad = range(20, 40)
    loader = make(tokenizer, Source(bad=bad), batch_size=50, max_bad_fraction=0.1)
    with loader, pytest.raises(UserError, match=r"bad records among \d+ drawn, above max_bad") as caught:
        for _ in range(3):
            next(loader)
    message = str(caught.value)
    assert message.count("OSError: truncated file") == 10 and "\n" not in message
    assert "replaced: OSError: truncated file" in caplog.text


def test_the_log_names_a_hundred(caplog):
    tally = BadRecords(1_000_000, 0.5)
    for index in range(300):
        tally.add(1000, [BadRecord(index, f"r{index}", "broken")] * 2)
    named = [line for line in caplog.messages if "replaced" in line]
    assert len(named) == 100 and len(caplog.messages) == 101 and "100 bad records: more" in caplog.messages[-1]
    assert tally.count == 600


def test_at_the_ceiling_the_run_goes_on(tokenizer):
    with make(tokenizer, Source(bad=range(5)), batch_size=50, max_bad_fraction=0.05) as loader:
        for _ in range(20):
            next(loader)
        assert loader.bad_records == 50


def test_nothing_readable_stops_at_once(tokenizer):
    with make(tokenizer, Source(bad=range(100))) as loader, pytest.raises(UserError, match="bad records"):
        next(loader)


def test_a_large_broken_set_stops_long_before_an_epoch():
    def draw(tally, fraction, steps, rng):
        for step in range(steps):
            bad = np.flatnonzero(rng.random(1000) < fraction)
            tally.add(1000, [BadRecord(1000 * step + int(i), f"r{i}", "broken") for i in bad])

    draw(BadRecords(12_000_000, 0.01), 0.01, 200, np.random.default_rng(0))  # at the ceiling: no stop
    with pytest.raises(UserError):
        draw(BadRecords(12_000_000, 0.01), 0.02, 20, np.random.default_rng(0))


# ---------------------------------------------------------------- user errors, threads, memory


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 10, "process_count": 4}, "batch_size=10 is not divisible by 4 processes; use 8 or 12"),
        ({"batch_size": 101}, "batch_size 101 exceeds the 100 training records"),
        ({"batch_size": 0}, "batch_size=0 must be at least 1"),
        ({"seed": -1}, "seed is -1"),
        ({"num_threads": -1}, "num_threads is -1"),
        ({"augment": "flop"}, "unknown augmentation 'flop'"),
    ],
)
def test_user_errors(tokenizer, options, message):
    with pytest.raises(UserError) as caught:
        make(tokenizer, **options)
    assert message in str(caught.value)


def test_close_ends_the_threads(tokenizer):
    before = threading.active_count()
    loader = make(tokenizer, num_threads=4)
    next(loader)
    assert threading.active_count() > before
    loader.close()
    loader.close()
    deadline = time.monotonic() + 10
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() <= before
    with pytest.raises(ValueError, match="closed"):
        next(loader)


def test_interpreter_exits_with_an_open_loader(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "from tests.data.test_loader import Source, make\n"
        "from rankclip_jax.data.text.tokenizer import train_tokenizer\n"
        "loader = make(train_tokenizer(['a'], 258, 24), num_threads=2)\n"
        "next(loader)\n"
        "print('done')\n"
    )
    done = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, timeout=60, env={"PYTHONPATH": ".", "PATH": ""}
    )
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr
