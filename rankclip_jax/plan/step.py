"""The real train step of a config, compiled ahead of time: no data, no weights and none of the devices are needed."""

import re
import time
from typing import NamedTuple

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from rankclip_jax.config.resolve import check_batch
from rankclip_jax.data.loader_options import example_arrays, loader_options
from rankclip_jax.data.records import RecordSource
from rankclip_jax.errors import UserError
from rankclip_jax.parallel.mesh import batch_sharding
from rankclip_jax.training import setup
from rankclip_jax.training.inputs import batch_keys
from rankclip_jax.training.setup import StepParts
from rankclip_jax.training.step import abstract_state, make_init

# Tokenizers with a vocabulary of their own; the others have `config.tokenizer.vocab_size` tokens.
VOCABULARY_SIZES = {"clip": 49_408}
# The compiler's messages that a program does not fit: all of it, or its temporaries alone.
NO_ROOM = (
    r"Used ([\d.]+)([KMGT]?) of [\d.]+[KMGT]? hbm",
    r"required for [^(]*\(([\d.]+)([KMGT]?)\) exceeds available HBM",
)
UNITS = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40, "": 1}


class Memory(NamedTuple):
    """Bytes of one device while the step runs. The outputs that are aliases reuse the buffers of arguments."""

    arguments: int
    outputs: int
    aliases: int
    temporaries: int
    program: int

    @property
    def total(self) -> int:
        """Peak bytes: everything that exists at the same time."""
        return self.arguments + self.outputs - self.aliases + self.temporaries + self.program


class Compiled(NamedTuple):
    """A compiled step.

    Attributes:
      text: the optimised HLO of one device; "" if the program does not fit its memory.
      memory: None if the program does not fit.
      needed: bytes that the compiler wanted, if the program does not fit; 0 otherwise.
      seconds: time to trace, lower and compile it.
    """

    text: str
    memory: Memory | None
    needed: int
    seconds: float


class Pairs(RecordSource):
    """Training pairs of which only the number is known."""

    has_second_captions = True

    def __init__(self, count: int):
        self._count = count

    def __len__(self) -> int:
        return self._count


def build(config: ConfigDict, mesh: Mesh, pairs: int, vocab_size: int = 0) -> StepParts:
    """Build the parts of the train step as training does, but from the number of `pairs` alone.

    `vocab_size` replaces the tokenizer's, if it is not 0.

    Raises:
      UserError: anything in the config that does not fit together, as in training.
    """
    check_batch(config.batch_size, device_count=mesh.size)
    config, objective = setup.resolve_objective(config, Pairs(pairs))
    setup.check_step(config, mesh)
    vocab_size = vocab_size or VOCABULARY_SIZES.get(config.tokenizer.name, config.tokenizer.vocab_size)
    return setup.step_parts(config, objective, mesh, vocab_size, eot_id=vocab_size - 1)


def compile_step(parts: StepParts) -> Compiled:
    """Trace, lower and compile the train step for the devices of `parts.mesh`."""
    began = time.monotonic()
    init = make_init(parts.towers, parts.objective, parts.optimizer, parts.step_options.ema_decay)
    state = abstract_state(init, jax.random.key(parts.config.seed), parts.mesh)
    lowered = setup.train_step(parts, state).lower(state, abstract_batch(parts))
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        return Compiled("", None, bytes_needed(str(error)), time.monotonic() - began)
    seconds, found = time.monotonic() - began, compiled.memory_analysis()
    memory = Memory(
        arguments=found.argument_size_in_bytes,
        outputs=found.output_size_in_bytes,
        aliases=found.alias_size_in_bytes,
        temporaries=found.temp_size_in_bytes,
        program=found.generated_code_size_in_bytes,
    )
    return Compiled(compiled.as_text(), memory, 0, seconds)


def abstract_batch(parts: StepParts) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes, dtypes and shardings of a global batch, the same as the loader makes."""
    config, sharding = parts.config, batch_sharding(parts.mesh)
    options = loader_options(config, batch_keys(parts.objective.inputs), process_index=0, process_count=1)
    arrays = example_arrays(options, config.model.text.context_length)
    return {
        name: jax.ShapeDtypeStruct((config.batch_size, *shape), dtype, sharding=sharding)
        for name, (shape, dtype) in arrays.items()
    }


def bytes_needed(message: str) -> int:
    """The bytes in the compiler's message that a program does not fit the memory of the device; it may need more.

    Raises:
      UserError: the compiler failed for another reason.
    """
    found = next(filter(None, (re.search(form, message) for form in NO_ROOM)), None)
    if found is None:
        lines = [line for line in message.splitlines() if line.strip()]
        raise UserError(f"the compiler failed: {' '.join(lines)[:400]}")
    return int(float(found[1]) * UNITS[found[2]])
