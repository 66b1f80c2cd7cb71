"""Builds a `Dataset`, training pairs and evaluation splits, from the options of files.

``train``, ``val`` and ``test`` are locations, ``[WEIGHT ][FORMAT:]PATH[#SPLIT]`` joined by "|". The locations of
`train` make one mixture; if it has none, the data set is for evaluation only. Each location of `val` and `test` is one
split: "test" if there is one location, otherwise "test_1", "test_2" ...
"""

import hashlib
import logging
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from rankclip_jax.data.class_records import records_of
from rankclip_jax.data.indices import Complement, Indices
from rankclip_jax.data.mixture import Located, Mixture, Subset
from rankclip_jax.data.pairs import PairSource
from rankclip_jax.data.quarantine import digest_of, find_quarantined, read_quarantine, with_prefixes
from rankclip_jax.data.records import Dataset
from rankclip_jax.data.sources.formats import Location, open_location, parse_locations
from rankclip_jax.data.sources.options import FileOptions
from rankclip_jax.data.sources.selection import ORDER, select
from rankclip_jax.data.sources.splits import eval_split
from rankclip_jax.errors import UserError
from rankclip_jax.terminal.redact import redacted

LOG = logging.getLogger(__name__)
SPLITS = ("train", "val", "test")


class Part(NamedTuple):
    """The pairs of one location; if there are several, `prefix` begins their keys and makes them unique."""

    location: Location
    pairs: PairSource
    prefix: str = ""


def load(options: FileOptions) -> Dataset:
    """Build the data set; `UserError` if the pairs of a location cannot be opened, or too few are left."""
    parts = _with_second_captions(open_parts(options), options)
    quarantined, bad = _quarantined(parts, options)
    sizes, of_train = [len(part.pairs) for part in parts["train"]], [bad[part.prefix] for part in parts["train"]]
    held_out, kept = select(sizes, of_train, options.val_pairs, options.train_limit)
    weights = [part.location.weight for part in parts["train"] if part.location.weight is not None]
    train = records_of(_together(parts["train"], kept, weights) if parts["train"] else Mixture([]))
    found = {"val": _together(parts["train"], held_out)} if options.val_pairs and parts["train"] else {}
    for name, part in (_named("val", parts["val"]) | _named("test", parts["test"])).items():
        found[name] = _together([part], [Complement(len(part.pairs), bad[part.prefix])])
    evals = {name: eval_split(name, pairs, options.templates) for name, pairs in found.items()}
    return Dataset(
        name=options.name,
        train=train,
        evals=evals,
        digest=_digest(parts, options, quarantined),
        counts={"train": len(train)} | {name: len(split.images) for name, split in evals.items()},
    )


def _quarantined(
    parts: Mapping[str, Sequence[Part]], options: FileOptions
) -> tuple[frozenset[str], dict[str, np.ndarray]]:
    """The keys to leave out, and int [q] for each prefix: indices of the pairs that have them, ascending."""
    sources = {part.prefix: part.pairs for name in SPLITS for part in parts[name]}
    keys = with_prefixes(read_quarantine(options.quarantine), sources)
    bad = {prefix: find_quarantined(pairs, keys) for prefix, pairs in sources.items()}
    if keys and not any(map(len, bad.values())):
        LOG.warning("no pair has a key of %s: were the data moved or renamed?", redacted(options.quarantine))
    return keys, bad


def open_parts(options: FileOptions) -> dict[str, list[Part]]:
    """All pairs of "train", "val" and "test", also quarantined and held-out pairs; errors as in `load`."""
    found = locations_of(options)
    prefixes = _prefixes([location for name in SPLITS for location in found[name]])
    return {name: [_open(location, options, prefixes) for location in found[name]] for name in SPLITS}


def _open(location: Location, options: FileOptions, prefixes: Mapping[Location, str]) -> Part:
    pairs, prefix = open_location(location, options), prefixes[location._replace(weight=None)]
    return Part(location, Located(pairs, prefix) if prefix else pairs, prefix)


def _prefixes(found: Sequence[Location]) -> dict[Location, str]:
    """What the keys of each location (without its weight) begin with: its text as in the config, without secrets."""
    distinct = list(dict.fromkeys(location._replace(weight=None) for location in found))
    if len(distinct) < 2:
        return dict.fromkeys(distinct, "")
    names = [redacted(location.path) + (f"#{location.split}" if location.split else "") for location in distinct]
    numbers = [f" ({names[:i].count(name) + 1})" if name in names[:i] else "" for i, name in enumerate(names)]
    return {location: f"{names[i]}{numbers[i]}:" for i, location in enumerate(distinct)}


def locations_of(options: FileOptions) -> dict[str, list[Location]]:
    """The locations of "train", "val" and "test"; `UserError` if there is no location, or an invalid one."""
    keys = {name: f"config.data.{name}" for name in SPLITS}
    found = {n: parse_locations(getattr(options, n), options.name, key, options.root) for n, key in keys.items()}
    if not any(found.values()):
        raise UserError(f"config.data.name={options.name!r} needs config.data.train: give the location of your pairs.")
    for name in ("val", "test"):
        if any(location.weight is not None for location in found[name]):
            raise UserError(f"config.data.{name} has weights, but every split is evaluated on its own: leave them out.")
    return found


def _with_second_captions(parts: dict[str, list[Part]], options: FileOptions) -> dict[str, list[Part]]:
    """The parts; those of "train" get the captions in the file `options.second_captions`, if it is set."""
    if not options.second_captions:
        return parts
    from rankclip_jax.data.second_captions import CaptionFile, WithSecondCaptions  # imports pyarrow, which is slow

    train = parts["train"]
    several = len({part.prefix for part in train}) > 1
    captions = CaptionFile(options.second_captions, [part.prefix for part in train] if several else ())
    return parts | {
        "train": [
            part._replace(pairs=WithSecondCaptions(part.pairs, captions, "" if several else part.prefix))
            for part in train
        ]
    }


def _named(split: str, parts: Sequence[Part]) -> dict[str, Part]:
    """The parts of `val` or `test` by split name."""
    names = [split] if len(parts) == 1 else [f"{split}_{number}" for number in range(1, len(parts) + 1)]
    return dict(zip(names, parts, strict=True))


def _together(parts: Sequence[Part], kept: Sequence[Indices], weights: Sequence[float] = ()) -> PairSource:
    """The kept pairs of all parts as one source."""
    subsets = []
    for part, own in zip(parts, kept, strict=True):
        if not len(own) and weights:
            raise UserError(f"no pair of {part.location.path} is left, but it has a weight: raise train_limit.")
        subsets.append(part.pairs if len(own) == len(part.pairs) else Subset(part.pairs, own))
    subsets = [subset for subset in subsets if len(subset)]
    if not subsets:
        raise UserError(f"every pair of {parts[0].location.path} is in quarantine: check config.data.quarantine.")
    return subsets[0] if len(subsets) == 1 else Mixture(subsets, weights)


def _digest(parts: Mapping[str, Sequence[Part]], options: FileOptions, quarantined: frozenset[str]) -> str:
    """sha256 hex of the digests of all sources and of the options that choose pairs."""
    sources = {name: [(part.location.weight, part.pairs.digest()) for part in parts[name]] for name in SPLITS}
    order = ORDER if options.val_pairs or options.train_limit else 0
    chosen = options.val_pairs, options.train_limit, order, digest_of(quarantined)
    return hashlib.sha256(repr((sources, chosen)).encode()).hexdigest()
