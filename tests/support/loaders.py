"""Loaders from options as a config spells them: augmentation pipelines as text."""

from typing import Any

from rankclip_jax.data.images.transforms import make_augment
from rankclip_jax.data.loader import Loader
from rankclip_jax.data.loader_options import LoaderOptions
from rankclip_jax.data.records import RecordSource
from rankclip_jax.data.text.augment import make_text_augment
from rankclip_jax.data.text.tokenizer import Tokenizer


def make_loader(source: RecordSource, tokenizer: Tokenizer, start_step: int = 0, **options: Any) -> Loader:
    """A loader with fields of `LoaderOptions`, of which pipelines are text; those of views are "" by default."""
    return Loader(source, tokenizer, make_options(**options), start_step)


def make_options(image_size: int, augment: str = "none", text_augment: str = "none", **options: Any) -> LoaderOptions:
    """The options alone."""
    view, view_text = options.pop("view_augment", ""), options.pop("view_text_augment", "")
    return LoaderOptions(
        image_size=image_size,
        augment=make_augment(augment, image_size),
        text_augment=make_text_augment(text_augment),
        view_augment=make_augment(view or augment, image_size),
        view_text_augment=make_text_augment(view_text or text_augment),
        **options,
    )
