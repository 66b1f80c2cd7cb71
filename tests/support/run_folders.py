"""Run folders made without training, with the files that training leaves behind."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rankclip_jax.checkpoints.manager import Checkpoints
from rankclip_jax.checkpoints.run_copy import copy_meta
from rankclip_jax.config.record import run_record, write_record
from rankclip_jax.data.text.tokenizer import Tokenizer
from rankclip_jax.models.counts import parameter_counts
from rankclip_jax.run_folder import CHECKPOINTS, TOKENIZER


def write_run(
    folder: Path, config: Any, data: Mapping, tokenizer: Tokenizer, states: Mapping[int, tuple[Any, float]]
) -> Path:
    """Write a run with the (state, image-to-text R@1 on val) of each step; `config` needs `model`, `data`, `eval`."""
    state = next(iter(states.values()))[0]
    params = parameter_counts(state)
    record = run_record(config, data, {"platform": "cpu", "kind": "cpu", "count": 1}, params, "L = CLIP")
    checkpoints = Checkpoints(str(folder / CHECKPOINTS), keep=len(states), best_metric="val/image_to_text_R@1")
    for step, (state, score) in states.items():
        checkpoints.save(step, state, copy_meta(record, tokenizer), {"val/image_to_text_R@1": score})
    checkpoints.close()
    write_record(folder, record)
    tokenizer.save(folder / TOKENIZER)
    return folder
