"""From ``config.data`` to a `Dataset`: which pairs are trained on, and which splits evaluate.

``train``, ``val`` and ``test`` name places, ``[WEIGHT ][FORMAT:]LOCATION[#SPLIT]`` joined by "|". Places of `train`
make one mixture; without any there is nothing but to evaluate. Each place of `val` and `test` is a split of its own:
"test", or "test_1", "test_2" ... of several.

One fixed permutation of the training pairs says which are held out (``val_pairs``, its first ones) and which are
used (``train_limit``, the next ones): the pairs of a smaller limit are among those of a larger one.
"""

import hashlib
import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from rankclip_jax.data.class_records import records_of
from rankclip_jax.data.mixture import Mixture, Subset
from rankclip_jax.data.pairs import PairOptions, PairSource
from rankclip_jax.data.quarantine import digest_of, read_quarantine, sound_pairs
from rankclip_jax.data.records import Dataset
from rankclip_jax.data.second_captions import CaptionFile, WithSecondCaptions
from rankclip_jax.data.sources.formats import Place, open_place, parse_places
from rankclip_jax.data.sources.paths import join
from rankclip_jax.data.sources.splits import eval_split
from rankclip_jax.errors import UserError

OPTIONS = {
    "root": "",
    "train": "",
    "val": "",
    "test": "",
    "val_pairs": 0,
    "image_key": "",
    "caption_key": "",
    "second_caption_key": "",
    "second_captions": "",
    "image_root": "",
    "templates": ("a photo of a {}.",),
    "index_dir": "",
    "quarantine": "",
    "train_limit": 0,
}
SPLITS = ("train", "val", "test")
ORDER_SEED = 20_250_101  # of the permutation: never change it, or every run's data become other ones


class Part(NamedTuple):
    """The pairs of one place."""

    place: Place
    pairs: PairSource


def load(config: Any) -> Dataset:
    """Build the data set.

    Args:
      config: object with the attribute `name`, the default format, and those of `OPTIONS`, or some of them.

    Raises:
      UserError: a location, or what is there, is not as it should be.
    """
    options = _options(config)
    parts = _with_second_captions(open_parts(config), options)
    quarantined = read_quarantine(os.path.expanduser(options["quarantine"]))
    held_out, kept = _select([part.pairs for part in parts["train"]], options, quarantined)
    weights = [part.place.weight for part in parts["train"] if part.place.weight is not None]
    train = records_of(_together(parts["train"], kept, weights) if parts["train"] else Mixture([]))
    found = {"val": _together(parts["train"], held_out)} if options["val_pairs"] else {}
    for name, part in (_named("val", parts["val"]) | _named("test", parts["test"])).items():
        found[name] = _together([part], [sound_pairs(part.pairs, quarantined)])
    evals = {name: eval_split(name, pairs, tuple(options["templates"])) for name, pairs in found.items()}
    return Dataset(
        name=config.name,
        train=train,
        evals=evals,
        digest=_digest(parts, options, quarantined),
        counts={"train": len(train)} | {name: len(split.images) for name, split in evals.items()},
    )


def _with_second_captions(parts: dict[str, list[Part]], options: Mapping[str, Any]) -> dict[str, list[Part]]:
    """The parts, those to train on with the captions of ``second_captions``."""
    if not options["second_captions"]:
        return parts
    if options["second_caption_key"]:
        raise UserError("config.data.second_captions and second_caption_key both name second captions: set one.")
    captions = CaptionFile(os.path.expanduser(options["second_captions"]))
    return parts | {"train": [Part(part.place, WithSecondCaptions(part.pairs, captions)) for part in parts["train"]]}


def open_parts(config: Any) -> dict[str, list[Part]]:
    """What each of "train", "val" and "test" of `config` names, before anything is held or left out.

    Raises:
      UserError: a location, or what is there, is not as it should be; there is none at all.
    """
    of_readers = reader_options(config)
    return {
        name: [Part(place, open_place(place, of_readers)) for place in places]
        for name, places in places_of(config).items()
    }


def reader_options(config: Any) -> PairOptions:
    """What readers of files need of `config`."""
    options = _options(config)
    image_root = os.path.expanduser(options["image_root"])
    return PairOptions(
        image_key=options["image_key"],
        caption_key=options["caption_key"],
        second_caption_key=options["second_caption_key"],
        image_root=join(os.path.expanduser(options["root"]), image_root)
        if options["root"] and image_root
        else image_root,
        templates=tuple(options["templates"]),
        index_dir=os.path.expanduser(options["index_dir"]),
        root=options["root"],
    )


def places_of(config: Any) -> dict[str, list[Place]]:
    """The places that each of "train", "val" and "test" of `config` names.

    Raises:
      UserError: one of them cannot be read, or there is none at all.
    """
    options = _options(config)
    if not any(options[name].strip() for name in SPLITS):
        raise UserError(f"config.data.name={config.name!r} needs config.data.train: say where the pairs are.")
    found = {}
    for name in SPLITS:
        key = f"config.data.{name}"
        places = parse_places(options[name], config.name, key) if options[name].strip() else []
        if name != "train" and any(place.weight is not None for place in places):
            raise UserError(f"{key} has weights, and splits are evaluated one by one: leave them out.")
        found[name] = places
    return found


def _options(config: Any) -> dict[str, Any]:
    options = {name: getattr(config, name, default) for name, default in OPTIONS.items()}
    for name in ("val_pairs", "train_limit"):
        if options[name] < 0:
            raise UserError(f"config.data.{name} is {options[name]}; use 0 for none, or a positive number.")
    if options["val"].strip() and options["val_pairs"]:
        raise UserError("config.data.val and config.data.val_pairs both say what `val` is: set one of them.")
    return options


def _named(split: str, parts: Sequence[Part]) -> dict[str, Part]:
    """The parts of `val` or `test` by the names of their splits."""
    names = [split] if len(parts) == 1 else [f"{split}_{number}" for number in range(1, len(parts) + 1)]
    return dict(zip(names, parts, strict=True))


def _select(
    sources: Sequence[PairSource], options: Mapping[str, Any], quarantined: frozenset[str]
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """For each source the pairs that are held out, and those to train on, as int arrays in ascending order."""
    starts = np.cumsum([0, *map(len, sources)])
    sound = [sound_pairs(source, quarantined) for source in sources]
    num_held_out, limit = options["val_pairs"], options["train_limit"]
    if not num_held_out and not limit:
        return [], sound
    is_sound = np.zeros(starts[-1], bool)
    is_sound[np.concatenate([own + start for own, start in zip(sound, starts, strict=False)])] = True
    order = np.random.default_rng(ORDER_SEED).permutation(starts[-1])
    held_out, rest = order[:num_held_out], order[num_held_out:]
    held_out, rest = held_out[is_sound[held_out]], rest[is_sound[rest]]
    if len(rest) < max(limit, 1):
        raise UserError(
            f"config.data.train_limit={limit} and val_pairs={num_held_out} are more than the {is_sound.sum()} sound "
            "pairs there are: lower them."
        )
    return _by_source(held_out, starts), _by_source(rest[: limit or None], starts)


def _by_source(chosen: np.ndarray, starts: np.ndarray) -> list[np.ndarray]:
    chosen = np.sort(chosen)
    ends = np.searchsorted(chosen, starts)
    return [chosen[a:b] - start for a, b, start in zip(ends, ends[1:], starts, strict=False)]


def _together(parts: Sequence[Part], kept: Sequence[np.ndarray], weights: Sequence[float] = ()) -> PairSource:
    """The kept pairs of all parts as one source."""
    subsets = []
    for part, own in zip(parts, kept, strict=True):
        if not len(own) and weights:
            raise UserError(f"no pair of {part.place.location} is left to give its weight to: raise train_limit.")
        subsets.append(part.pairs if len(own) == len(part.pairs) else Subset(part.pairs, own))
    subsets = [subset for subset in subsets if len(subset)]
    if not subsets:
        raise UserError(f"every pair of {parts[0].place.location} is in quarantine: check config.data.quarantine.")
    return subsets[0] if len(subsets) == 1 else Mixture(subsets, weights)


def _digest(parts: Mapping[str, Sequence[Part]], options: Mapping[str, Any], quarantined: frozenset[str]) -> str:
    """sha256 hex of the pairs of every split: of all sources, and of what chooses among their pairs."""
    sources = {name: [(part.place.weight, part.pairs.digest()) for part in parts[name]] for name in SPLITS}
    chosen = options["val_pairs"], options["train_limit"], digest_of(quarantined)
    return hashlib.sha256(repr((sources, chosen)).encode()).hexdigest()
