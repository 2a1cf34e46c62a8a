"""Stores that do not answer, that answer late, and whose addresses are secret."""

import socket
import threading
import traceback
from collections.abc import Iterator
from typing import Any

import fsspec
import pytest

import evoprune as ep
from evoprune.record import remote
from evoprune.record.copies import folder_of
from evoprune.record.remote import Remote, StoreError

SECRETS = ("S3CR3T", "t0k3n", "s1gn", "p%40ss", "p@ss")
URLS = [
    "sftp://me:S3CR3T@127.0.0.1/run",
    "sftp://me:p%40ss@127.0.0.1/run",
    "ftp://me:S3CR3T@127.0.0.1:{port}/run",
    "http://user:S3CR3T@127.0.0.1:{port}/run",
    "http://127.0.0.1:{port}/run?token=t0k3n&X-Amz-Signature=s1gn",
    "nonsense://me:S3CR3T@host/run",
]


@pytest.fixture
def silent(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """The port of a server that takes connections and never says anything."""
    monkeypatch.setattr(remote, "ANSWER_S", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.mark.parametrize("url", URLS)
def test_an_error_without_a_message_is_one_line_without_secrets(
    url: str, silent: int, caplog: pytest.LogCaptureFixture
) -> None:
    url = url.format(port=silent)
    with pytest.raises(StoreError) as error:
        ep.load_run(url)
    with pytest.raises(StoreError) as other:
        ep.resume(url)
    printed = "".join(traceback.format_exception(error.value)) + "".join(traceback.format_exception(other.value))
    assert not [secret for secret in SECRETS if secret in printed + str(error.value) + caplog.text]
    assert "cannot be" in str(error.value)
    assert "\n" not in str(error.value)


def test_an_error_that_quotes_the_password_is_masked_and_not_chained(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError("p@ss is not the password of me")

    monkeypatch.setattr(fsspec.get_filesystem_class("memory"), "cat_file", refuse)
    with pytest.raises(StoreError, match=r"cannot be read: \*\*\* is not the password of me") as error:
        Remote("memory://me:p%40ss@host/run").read("x")
    assert "p@ss" not in "".join(traceback.format_exception(error.value))


def test_secrets_do_not_make_another_run() -> None:
    assert folder_of("sftp://me:old@h/run") == folder_of("sftp://me:new@h/run/")
    assert folder_of("sftp://me:old@h/run") != folder_of("sftp://you:old@h/run")


def test_an_upload_that_hangs_is_waited_for_before_the_next_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the old content could land on top of the new one."""
    memory = fsspec.get_filesystem_class("memory")
    release, put = threading.Event(), memory.pipe_file

    def hang(files: Any, path: str, data: bytes, **options: Any) -> None:
        if data == b"old":
            release.wait()
        put(files, path, data, **options)

    monkeypatch.setattr(memory, "pipe_file", hang)
    monkeypatch.setattr(remote, "ANSWER_S", 0.05)
    store = Remote("memory://hanging")
    with pytest.raises(StoreError, match="cannot be written: no answer within 0 seconds"):
        store.write("x", b"old")
    with pytest.raises(StoreError, match="an earlier call is still without an answer"):
        store.write("x", b"new")
    release.set()
    monkeypatch.setattr(remote, "ANSWER_S", 20.0)
    store.write("x", b"new")
    assert store.read("x") == b"new"
    store.remove("x")
    store.remove("x")
    assert store.read("x") is None
    assert store.sizes() == {}


def test_a_folder_is_made_on_stores_that_have_some(tmp_path: Any) -> None:
    store = Remote(f"local://{tmp_path}/run")
    store.write("candidates/gen-0000.parquet", b"1234")
    assert store.sizes() == {"candidates/gen-0000.parquet": 4}
    assert (tmp_path / "run" / "candidates" / "gen-0000.parquet").read_bytes() == b"1234"
