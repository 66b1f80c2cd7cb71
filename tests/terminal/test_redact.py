"""Secrets in URLs, and in texts that hold URLs or parts of them."""

import pytest

from rankclip_jax.errors import UserError
from rankclip_jax.terminal.redact import is_redacted, redacted, redacted_values
from rankclip_jax.terminal.show import printable

S = "s3cr3t"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"https://me:{S}@host/a.tar", "https://REDACTED@host/a.tar"),
        (f"s3://KEY:{S}@x@bucket/a", "s3://REDACTED@bucket/a"),
        (f"https://h/a.tar?token={S}&id=7#train[:9%]", "https://h/a.tar?token=REDACTED&id=7#train[:9%]"),
        (f"https://h/a?X-Amz-Signature={S}/{S}&X-Amz-Date=1", "https://h/a?X-Amz-Signature=REDACTED&X-Amz-Date=REDACTED"),
        (f"https://h/{{0..9}}?t={S}::s3://b?t={S} | csv:x", "https://h/{0..9}?t=REDACTED::s3://b?t=REDACTED | csv:x"),
        (f"(Max retries with url: /a?sig={S} (Caused by X))", "(Max retries with url: /a?sig=REDACTED (Caused by X))"),
        (f"https://h/#access_token={S}", "https://h/#access_token=REDACTED"),
        ("https://$USER:$WORD@h/a?token=$TOKEN", "https://$USER:$WORD@h/a?token=$TOKEN"),
        ("https://me:$WORD@h/a", "https://me:$WORD@h/a"),
        ("https://h/a?t=REDACTED:0.tar?t=REDACTED/1.jpg", "https://h/a?t=REDACTED:0.tar?t=REDACTED/1.jpg"),  # a key
        ("https://h/uc?export=download&id=9&path=a/b.tar", "https://h/uc?export=download&id=9&path=a/b.tar"),
        ("what is 1=1? mail me@home; a&b", "what is 1=1? mail me@home; a&b"),
    ],
)  # fmt: skip
def test_texts(text, expected):
    assert redacted(text) == expected == redacted(expected)
    assert is_redacted(expected) == ("REDACTED" in expected)
    assert str(UserError(text)) == expected and printable(text) == expected


def test_nested_values():
    url = f"https://h/a?t={S}"
    found = redacted_values({"a": [url, 3], "b": {"c": (url, None)}})
    assert found == {"a": ["https://h/a?t=REDACTED", 3], "b": {"c": ("https://h/a?t=REDACTED", None)}}
