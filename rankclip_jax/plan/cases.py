"""The cases of one plan: the config with every combination of the objectives, batches and meshes to compare."""

import itertools
from collections.abc import Iterator, Sequence

from ml_collections import ConfigDict

from rankclip_jax.errors import UserError
from rankclip_jax.objectives import objective_config

KEYS = {"batch_sizes": "batch_size", "fsdp": "mesh.fsdp", "micro_batches": "micro_batches"}


def cases(config: ConfigDict, objectives: Sequence[str], **values: Sequence[str]) -> Iterator[ConfigDict]:
    """A config for each combination of `objectives` and of `values` (names in `KEYS`); empty: the config's own.

    Raises:
      UserError: a value that is not a positive whole number.
    """
    chosen = {KEYS[flag]: [_positive(flag, text) for text in given] for flag, given in values.items() if given}
    for name in objectives or [config.objective.name]:
        for combination in itertools.product(*chosen.values()):
            case = with_objective(config, name)
            with case.unlocked():
                case.update_from_flattened_dict(dict(zip(chosen, combination, strict=True)))
            yield case


def _positive(flag: str, text: str) -> int:
    if not text.strip().isdigit() or int(text) < 1:
        raise UserError(f"--{flag}: {text!r} is not a positive whole number.")
    return int(text)


def with_objective(config: ConfigDict, name: str) -> ConfigDict:
    """A copy of the config with the objective `name` and its default options; its own objective keeps its options."""
    config = config.copy_and_resolve_references()
    if name != config.objective.name:
        with config.unlocked():
            config.objective = objective_config(name)
    return config
