"""`index`: indexes tars now rather than when training starts."""

from absl import flags
from ml_collections import ConfigDict

from rankclip_jax.data.commands.sections import MakeTokenizer
from rankclip_jax.data.sources.assemble import locations_of
from rankclip_jax.data.sources.formats import FORMATS, files_of, module_of
from rankclip_jax.data.sources.options import FileOptions, parse
from rankclip_jax.terminal.show import show


def define_flags() -> None:
    """Define the flags of this command."""
    flags.DEFINE_bool("rebuild", False, "build existing indexes again")


def run(config: ConfigDict, make_tokenizer: MakeTokenizer) -> None:
    """Index every location in ``config.data`` whose format has indexes."""
    rebuild = flags.FLAGS.rebuild
    options = parse(FileOptions, config.data) if config.data.name in FORMATS else None
    wanted = [
        (split, location)
        for split, found in (locations_of(options) if options else {}).items()
        for location in found
        if FORMATS[location.format].has_index
    ]
    for split, location in wanted:
        files = files_of(location, options.root)
        show(f"{split} {location.path}\n{module_of(location).index(files, options, rebuild)}")
    if not wanted:
        show(f"nothing to index: {config.data.name} is read without an index.")
