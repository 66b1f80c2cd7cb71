"""Reads the text of tables, which may be in any Unicode encoding."""

from rankclip_jax.data.storage import locations
from rankclip_jax.errors import UserError
from rankclip_jax.files.text_files import as_utf8

BINARY = {  # first bytes of files that are no text
    b"\x1f\x8b": "compressed by gzip",
    b"BZh": "compressed by bzip2",
    b"\xfd7zXZ": "compressed by xz",
    b"\x28\xb5\x2f\xfd": "compressed by zstd",
    b"PK\x03\x04": "a zip file or an Excel workbook",
    b"\xd0\xcf\x11\xe0": "an Excel workbook",
    b"PAR1": "a Parquet file",
    b"ARROW1": "an Arrow file",
}


def read_text(file: str) -> bytes:
    """The content of a table as UTF-8 without a byte-order mark.

    Raises:
      UserError: the file cannot be read, or is no text.
    """
    try:
        data = locations.read(file)
    except OSError as error:
        raise UserError(f"cannot read the table {file} ({error.strerror or error}): check the file.") from None
    kind = next((BINARY[begin] for begin in BINARY if data.startswith(begin)), None)
    if kind:
        raise UserError(f"{file} is {kind}, not text: decompress it, save it as CSV or JSON, or name its format.")
    return as_utf8(data)
