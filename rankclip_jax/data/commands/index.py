"""`index`: index tars now rather than when training starts."""

from absl import flags
from ml_collections import ConfigDict

from rankclip_jax.data.commands.sections import MakeTokenizer
from rankclip_jax.data.sources.assemble import SPLITS, places_of, reader_options
from rankclip_jax.data.sources.formats import FORMATS, module_of
from rankclip_jax.data.storage import locations


def define_flags() -> None:
    """Define the flags of this command."""
    flags.DEFINE_bool("rebuild", False, "build existing indexes again")


def run(config: ConfigDict, make_tokenizer: MakeTokenizer) -> None:
    """Index every location in ``config.data`` whose format has indexes."""
    places = places_of(config.data) if config.data.name in FORMATS else {}
    found = 0
    for split in SPLITS:
        for place in places.get(split, ()):
            module, options = module_of(place), reader_options(config.data)
            if hasattr(module, "index"):
                files = locations.expand(place.location, options.root, FORMATS[place.format].extensions)
                print(f"{split} {place.location}\n{module.index(files, options, flags.FLAGS.rebuild)}")
                found += 1
    if not found:
        print(f"nothing to index: {config.data.name} is read without an index.")
