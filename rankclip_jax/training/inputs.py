"""The inputs of an objective, checked against the towers, the data and the config.

An objective names its inputs. The towers compute them from arrays of the batch (`two_towers.OUTPUTS`), which the loader
makes from the data. Nothing else is computed. An input that nothing can provide is rejected here, before anything is
built.
"""

from collections.abc import Iterable

from ml_collections import ConfigDict

from rankclip_jax.data.pipeline_spec import is_empty
from rankclip_jax.data.records import RecordSource
from rankclip_jax.errors import UserError
from rankclip_jax.models.two_towers import EMBEDS, OUTPUTS
from rankclip_jax.objectives.objective import Objective

ALWAYS = ("images", "tokens")
# Second views: key of the batch, what it views, the option of `config.data` for its augmentations, an example value.
VIEWS = (
    ("augmented_images", "image", "augment", "shift|color_jitter"),
    ("augmented_tokens", "caption", "text_augment", "eda"),
)


def batch_keys(inputs: Iterable[str]) -> tuple[str, ...]:
    """Keys of the batch from which the towers compute `inputs`, always with "images" and "tokens"."""
    return tuple(dict.fromkeys((*ALWAYS, *(OUTPUTS[name].input for name in inputs))))


def captions_for_vocabulary(source: RecordSource, index: int, inputs: Iterable[str]) -> tuple[str, ...]:
    """Captions of a record to train a vocabulary on, including second captions if the objective reads them.

    Empty for a record that cannot be read; the loader counts it later.
    """
    try:
        second = source.second_captions(index) if "caption_embeds" in inputs else ()
        return (*source.captions(index), *second)
    except Exception:  # a reader may raise anything
        return ()


def embeds_of(model: ConfigDict, objective: Objective) -> str:
    """The kind of embedding that the encoder returns, a key of `EMBEDS`: `model.embeds`, or the first trained one.

    Raises:
      UserError: the objective does not train that kind, or trains no embedding at all.
    """
    trained = [name for name, array in EMBEDS.items() if array in objective.inputs]
    if model.embeds and model.embeds not in trained:
        raise UserError(
            f"config.model.embeds={model.embeds!r}, which objective {objective.name!r} does not train: "
            f"use {' or '.join(map(repr, trained)) or 'another objective'}."
        )
    if not trained:
        raise UserError(f"objective {objective.name!r} trains no embedding, neither {' nor '.join(EMBEDS)}.")
    return model.embeds or trained[0]


def check_inputs(objective: Objective, train: RecordSource, config: ConfigDict) -> None:
    """Reject an objective with an input that neither the training records `train` nor the whole `config` provides.

    Raises:
      UserError: names the array, and what could provide it.
    """
    data = config.data
    wanted = f"objective {objective.name!r} needs"
    for name in objective.inputs:
        if name not in OUTPUTS:
            raise UserError(
                f"{wanted} {name!r}, which the towers do not compute. Known: {', '.join(sorted(OUTPUTS))}. "
                "Change the objective's options, or use another objective."
            )
    inputs = batch_keys(objective.inputs)
    if "caption_tokens" in inputs and not train.has_second_captions:
        raise UserError(
            f"{wanted} a second caption of each image, and data {data.name!r} have one kind of caption only: "
            "use data with second captions, make some (python -m rankclip_jax.data captions), or use another objective."
        )
    for key, what, option, example in VIEWS:
        of_view = f"view_{option}"
        if key in inputs and is_empty(data[option]) and is_empty(data[of_view]):
            raise UserError(
                f"{wanted} a second view of each {what}, and with config.data.{option}={data[option]!r} it equals the "
                f"first view: name augmentations there or in config.data.{of_view}, such as {example!r}."
            )
