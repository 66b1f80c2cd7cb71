"""The embedded emoji data set as a `Dataset`: nothing to download, 1.5 s to load."""

import hashlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rankclip_jax.data.emoji import FOLDER, STYLES
from rankclip_jax.data.emoji.catalogue import Concept, read_concepts, read_sheet
from rankclip_jax.data.emoji.splits import SPLITS, held_out_subgroups, split_of, stable_hash
from rankclip_jax.data.records import Classes, Dataset, EvalSplit, Record, RecordSource
from rankclip_jax.data.sources.options import EmojiOptions
from rankclip_jax.errors import UserError, lookup

TEMPLATES = (
    "{}",
    "an emoji of {}",
    "a drawing of {}",
    "a picture of {}",  # a prompt, not prose: the results rest on it
    "an icon for {}",
    "a small symbol that shows {}",
    "{}, a colorful emoji",
)

# Labellings of the drawings, and the text that replaces a hyphen in a class name.
LABELLINGS = {"group": " and ", "subgroup": " "}


@dataclass(frozen=True)
class Drawing:
    """One concept in one style."""

    concept: Concept
    style: str

    @property
    def key(self) -> str:
        return f"{self.style}/{self.concept.hexcode}"


class DrawingSource(RecordSource):
    """The training drawings, in memory."""

    has_second_captions = True

    def __init__(self, drawings: Sequence[Drawing], images: np.ndarray, concepts: Sequence[Concept]):
        self._drawings = tuple(drawings)
        self._class_indices = {kind: _class_indices(kind, concepts) for kind in LABELLINGS}
        self.classes = {kind: _class_names(kind, concepts) for kind in LABELLINGS}
        self.images = images
        self.concept_ids = np.array([drawing.concept.cell for drawing in drawings], np.int32)
        self._captions = tuple(captions_of(drawing) for drawing in drawings)

    def __len__(self) -> int:
        return len(self._drawings)

    def __getitem__(self, index: int) -> Record:
        return Record(self.key(index), self.images[index], self._captions[index], self.second_captions(index))

    def key(self, index: int) -> str:
        return self._drawings[index].key

    def captions(self, index: int) -> tuple[str, ...]:
        return self._captions[index]

    def second_captions(self, index: int) -> tuple[str, ...]:
        return second_captions_of(self._drawings[index])

    def labels(self, labelling: str) -> np.ndarray:
        index = self._class_indices[labelling]
        return np.array([index[getattr(drawing.concept, labelling)] for drawing in self._drawings], np.int32)


def captions_of(drawing: Drawing) -> tuple[str, ...]:
    """Three captions: the name; the name and one keyword; all keywords.

    Retrieval is evaluated on the name, so it must be frequent: with one caption per keyword it would be one caption in
    seven. Instead, each style of a concept has another keyword.
    """
    name, others = drawing.concept.label, _other_keywords(drawing.concept)
    captions = [name]
    if others:
        turn = stable_hash(drawing.concept.hexcode) + STYLES.index(drawing.style)
        captions += [f"{name}, {others[turn % len(others)]}", ", ".join(drawing.concept.keywords)]
    return tuple(dict.fromkeys(captions))


def second_captions_of(drawing: Drawing) -> tuple[str, ...]:
    """A sentence for each keyword, such as "a drawing of fox, related to forest", in place of generated captions.

    Each sentence has only one keyword, because a short context would cut off more.
    """
    name, others = drawing.concept.label, _other_keywords(drawing.concept)
    return tuple(f"a drawing of {name}, related to {word}" for word in others) or (f"a drawing of {name}",)


def _other_keywords(concept: Concept) -> list[str]:
    return [word for word in concept.keywords if word.casefold() != concept.label.casefold()]


def load(options: EmojiOptions = EmojiOptions()) -> Dataset:  # noqa: B008 (frozen)
    """Build the data set; `UserError` if a file is missing or damaged, a style is unknown, or a split is empty."""
    folder = Path(options.root).expanduser() if options.root else FOLDER
    concepts = read_concepts(folder)
    styles = _styles(options.styles)
    splits = split_drawings(concepts, styles)
    splits["train"] = _limit(splits["train"], options.train_limit)
    for name, drawings in splits.items():
        if not drawings:
            raise UserError(f"split {name!r} of emoji is empty with styles={','.join(styles)}; add styles.")
    sheets = _read_sheets(folder, styles, len(concepts))
    train = DrawingSource(splits["train"], _pixels(splits["train"], sheets), concepts)
    evals = {name: _eval_split(name, splits[name], concepts, sheets) for name in SPLITS if name != "train"}
    return Dataset(
        name=options.name,
        train=train,
        evals=evals,
        digest=_digest(splits, train, evals),
        counts={name: len(splits[name]) for name in SPLITS},
    )


def _styles(text: str) -> tuple[str, ...]:
    known = dict.fromkeys(STYLES)
    wanted = [name.strip() for name in text.split(",") if name.strip()]
    for name in wanted:
        lookup(known, name, "emoji style")
    return tuple(name for name in STYLES if not wanted or name in wanted)


def split_drawings(concepts: Sequence[Concept], styles: Sequence[str] = STYLES) -> dict[str, list[Drawing]]:
    """All drawings by split, in the order of `SPLITS`; within a split ordered by cells, then by `styles`."""
    held_out = held_out_subgroups(concept.subgroup for concept in concepts)
    splits = {name: [] for name in SPLITS}
    for concept in concepts:
        for style in styles:
            if style in concept.styles:
                splits[split_of(concept, style, held_out)].append(Drawing(concept, style))
    return splits


def _limit(drawings: list[Drawing], limit: int) -> list[Drawing]:
    if limit < 0:
        raise UserError(f"train_limit is {limit}; use 0 for all drawings, or a positive number.")
    if not limit:
        return drawings
    chosen = {d.key for d in sorted(drawings, key=lambda d: (stable_hash(d.key), d.key))[:limit]}
    return [drawing for drawing in drawings if drawing.key in chosen]


def _read_sheets(folder: Path, styles: Sequence[str], num_cells: int) -> dict[str, np.ndarray]:
    with ThreadPoolExecutor() as pool:  # threads help, because the decoder releases the interpreter lock
        sheets = pool.map(lambda style: read_sheet(folder, style, num_cells), styles)
        return dict(zip(styles, sheets, strict=True))


def _pixels(drawings: Sequence[Drawing], sheets: Mapping[str, np.ndarray]) -> np.ndarray:
    return np.stack([sheets[drawing.style][drawing.concept.cell] for drawing in drawings])


def _eval_split(
    name: str, drawings: list[Drawing], concepts: Sequence[Concept], sheets: Mapping[str, np.ndarray]
) -> EvalSplit:
    candidates = _candidates(name, drawings, concepts)
    imaged = [drawing.concept for drawing in drawings]
    return EvalSplit(
        name=name,
        images=_pixels(drawings, sheets),
        image_ids=np.array([concept.cell for concept in imaged], np.int32),
        texts=tuple(concept.label for concept in candidates),
        text_ids=np.array([concept.cell for concept in candidates], np.int32),
        classes={kind: _classes(kind, concepts, imaged, candidates) for kind in LABELLINGS},
    )


def _candidates(name: str, drawings: list[Drawing], concepts: Sequence[Concept]) -> list[Concept]:
    """Concepts of the split; for ``test_style`` also concepts without a drawing in the held-out style."""
    if name != "test_style":
        return list({drawing.concept.cell: drawing.concept for drawing in drawings}.values())
    held_out = held_out_subgroups(concept.subgroup for concept in concepts)
    style = drawings[0].style
    return [concept for concept in concepts if split_of(concept, style, held_out) == name]


def _class_indices(kind: str, concepts: Sequence[Concept]) -> dict[str, int]:
    """Class index of each group or subgroup of the data set, the same for every split."""
    return {name: i for i, name in enumerate(dict.fromkeys(getattr(concept, kind) for concept in concepts))}


def _class_names(kind: str, concepts: Sequence[Concept]) -> tuple[str, ...]:
    return tuple(name.replace("-", LABELLINGS[kind]) for name in _class_indices(kind, concepts))


def _classes(
    kind: str, concepts: Sequence[Concept], imaged: Sequence[Concept], candidates: Sequence[Concept]
) -> Classes:
    """The labelling by group or subgroup. All classes of the data set are candidates in every split."""
    index = _class_indices(kind, concepts)
    return Classes(
        names=_class_names(kind, concepts),
        image_labels=np.array([index[getattr(concept, kind)] for concept in imaged], np.int32),
        text_labels=np.array([index[getattr(concept, kind)] for concept in candidates], np.int32),
        templates=TEMPLATES,
    )


def _digest(splits: Mapping[str, Sequence[Drawing]], train: DrawingSource, evals: Mapping[str, EvalSplit]) -> str:
    """sha256 hex of the keys, captions, candidate texts and pixels of every split."""
    sha = hashlib.sha256()
    for name, drawings in splits.items():
        split = evals.get(name)
        texts = [train.captions(i) for i in range(len(train))] if split is None else split.texts
        sha.update(repr((name, [drawing.key for drawing in drawings], texts)).encode("utf-8"))
        sha.update(np.ascontiguousarray(train.images if split is None else split.images))
    return sha.hexdigest()
