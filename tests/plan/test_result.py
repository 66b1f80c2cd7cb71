"""What a plan says about a program that does not fit."""

import jax
import pytest

from rankclip_jax.config.base import get_config
from rankclip_jax.parallel.device_peaks import V5E
from rankclip_jax.parallel.mesh import make_mesh
from rankclip_jax.plan.describe import describe, table
from rankclip_jax.plan.result import result_of
from rankclip_jax.plan.step import Compiled, build
from rankclip_jax.plan.topology import Machine

GiB = 2**30


def too_large(**changes):
    """The result of a program that needs 37 GiB on one chip of a v5e."""
    config = get_config("mu", "clip")
    config.update_from_flattened_dict(
        {"batch_size": 96, "tokenizer.name": "bpe", "tokenizer.vocab_size": 512} | changes
    )
    devices = jax.devices()[:1]
    parts = build(config, make_mesh(devices), pairs=1000)
    return result_of(parts, Machine("v5e:1x1", tuple(devices), V5E, (1, 1)), Compiled("", None, 37 * GiB, 60.0))


def test_it_names_the_keys_that_reduce_memory():
    result = too_large()
    assert not result["fits"]
    # 37 GiB are 2.3 times what there is. A third or a quarter of the batch at a time leaves room for the parameters.
    assert result["advice"].split("; ") == [
        "config.model.dtype=bfloat16",
        "config.model.image.remat=dots",
        "config.model.text.remat=dots",
        "config.micro_batches=4",
        "a smaller config.batch_size or a larger --topology",
    ]
    text = describe(result)
    assert "at least 37.0 of 16.0 GiB: DOES NOT FIT" in text
    assert "config.micro_batches=4" in text
    assert "no" in table([result]).splitlines()[1].split()


@pytest.mark.parametrize("key", ["image", "text"])
def test_it_names_no_key_that_is_set_already(key):
    result = too_large(**{"model.dtype": "bfloat16", f"model.{key}.remat": "block", "micro_batches": 96})
    assert "dtype" not in result["advice"]
    assert f"{key}.remat" not in result["advice"]
    assert "micro_batches" not in result["advice"]
