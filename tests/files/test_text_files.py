"""Text files of all Unicode encodings, compared with Python's codecs, and damaged JSON."""

import json

import pytest

from rankclip_jax.files.text_files import as_utf8, decode, parse_json, parse_json_values

TEXT = "a red fox\nün renard — 狐\n"
MARKED = {"utf-8": b"\xef\xbb\xbf", "utf-16-le": b"\xff\xfe", "utf-16-be": b"\xfe\xff"}
MARKED |= {"utf-32-le": b"\xff\xfe\0\0", "utf-32-be": b"\0\0\xfe\xff"}


@pytest.mark.parametrize("encoding", MARKED)
@pytest.mark.parametrize("is_marked", [True, False])
def test_every_encoding(encoding, is_marked):
    data = MARKED[encoding] * is_marked + TEXT.encode(encoding)
    assert decode(data) == TEXT and as_utf8(data) == TEXT.encode()
    assert parse_json(MARKED[encoding] * is_marked + json.dumps({"a": TEXT}).encode(encoding)) == {"a": TEXT}


@pytest.mark.parametrize("data", [b"", b"a", b"caf\xe9", b"a dog\0\0\0\0\0\0", b"\0\0\0", b"\0\0\0\0", "狐".encode()])
def test_other_bytes_stay(data):
    assert as_utf8(data) == data


def test_text_of_another_script_with_names_of_files():
    text = "image,caption\n" + "".join(
        f"{i}.jpg,白いセーターを着た女性が犬と公園を散歩しています。\n" for i in range(50)
    )
    for encoding in ("utf-16-le", "utf-16-be", "utf-32-le"):
        assert decode(text.encode(encoding)) == text


def test_text_that_is_cut_off_is_read_to_its_end():
    assert decode("ab".encode("utf-16") + b"c") == "ab\ufffd"
    with pytest.raises(UnicodeDecodeError):
        decode(b"caf\xe9")


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, "1" * 5000, "", "{", "nul"])
def test_invalid_json_is_a_value_error(text):
    for read in (parse_json, parse_json_values):
        if text or read is parse_json:
            with pytest.raises(ValueError):
                read(text)


def test_several_values():
    assert parse_json_values(' [1,\n2] {"a":\n3}\r\n4 ') == [[1, 2], {"a": 3}, 4]
    assert parse_json_values(" \n") == []
