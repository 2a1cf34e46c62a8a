"""Texts that evoprune shows: without secrets, in one line."""

import pickle

import pytest

from evoprune.errors import ConfigError, Interrupted, shown

MASKED = {
    "sftp://me:SECRET@host/run cannot be read": "sftp://me:***@host/run cannot be read",
    "sftp://me:SE/C:R@ET@host/run": "sftp://me:***@host/run",
    "ftp://me:123@host": "ftp://me:***@host",
    "s3://KEY:SECRET@bucket/run": "s3://KEY:***@bucket/run",
    "https://TOKEN@host/run": "https://***@host/run",
    "'https://h/r?token=a1&X-Amz-Signature=b%3D=&c' is": "'https://h/r?token=***&X-Amz-Signature=***&***' is",
    "az://box/run?sig=abc;se=2030": "az://box/run?sig=***;se=***",
    "two: ftp://a:b@c, ftp://d:e@f": "two: ftp://a:***@c, ftp://d:***@f",
}
UNCHANGED = ["s3://bucket/run", "http://host:8080/a@b", "sftp://me@host/run", "is it so? a=b", "C:/a@b", "a:b@c"]


@pytest.mark.parametrize(("text", "masked"), [*MASKED.items(), *((text, text) for text in UNCHANGED)])
def test_secrets_of_urls_are_masked(text: str, masked: str) -> None:
    assert shown(text) == masked


def test_control_characters_are_escaped() -> None:
    assert shown("s3://b/\x1b[31mred\nline\x07") == r"s3://b/\x1b[31mred\nline\x07"


@pytest.mark.parametrize("kind", [ConfigError, Interrupted])
def test_every_message_of_ours_is_in_that_form(kind: type[Exception]) -> None:
    error = kind("sftp://me:SECRET@host\n")
    assert str(error) == r"sftp://me:***@host\n"
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
