"""The files below an fsspec URL. Every call is bounded in time, and every failure is one line without secrets."""

import contextlib
import queue
import threading
from collections.abc import Callable
from typing import Any, TypeVar
from urllib.parse import unquote, urlsplit

from evoprune.errors import RunFolderError, masked, shown

ANSWER_S = 60.0
"""The longest wait for an answer, besides the time that the bytes themselves may take."""

SLOWEST_BYTES_PER_S = 50_000

_WITHOUT_FOLDERS = ("s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "oci", "oss", "memory")

_Answer = TypeVar("_Answer")


class StoreError(RunFolderError):
    """A store does not answer, or refuses."""


class Remote:
    """Files by name below a URL, over a connection of this object's own that is made anew after a failure.

    One call runs at a time. A call that got no answer in time may still take effect later, so the next one waits for
    its end: an old upload never lands on top of a newer one.
    """

    def __init__(self, url: str):
        self.url = url
        self._connection: tuple[Any, str] | None = None
        self._running: threading.Thread | None = None

    @property
    def is_conditional(self) -> bool:
        """Whether `create` and `replace` let exactly one of several writers through."""
        return self._keeps_tags or self.url.startswith("memory:")

    @property
    def _keeps_tags(self) -> bool:
        return self.url.startswith(("s3://", "s3a://"))

    def read(self, name: str) -> bytes | None:
        """The content of a file; None if there is no such file. Raises StoreError."""

        def read(files: Any, root: str) -> bytes | None:
            try:
                return bytes(files.cat_file(f"{root}/{name}"))
            except FileNotFoundError:
                return None

        return self._call("read", read)

    def sizes(self) -> dict[str, int]:
        """The names of all files and their sizes in bytes. Raises StoreError."""

        def find(files: Any, root: str) -> dict[str, int]:
            try:
                found = files.find(root, detail=True)
            except FileNotFoundError:
                return {}
            start = f"{root}/"
            return {
                str(path).removeprefix(start): int(entry["size"])
                for path, entry in found.items()
                if str(path).startswith(start)
            }

        return self._call("read", find)

    def tag(self, name: str) -> str | None:
        """The version of a file, for `replace`; None if the store keeps none. Raises StoreError."""

        if not self._keeps_tags:
            return None

        def tag(files: Any, root: str) -> str | None:
            try:
                return files.info(f"{root}/{name}").get("ETag")
            except FileNotFoundError:
                return None

        return self._call("read", tag)

    def write(self, name: str, data: bytes) -> None:
        """Puts a file in place of whatever is there. Raises StoreError."""
        self._call("written", lambda files, root: _put(files, f"{root}/{name}", data, {}), len(data))

    def create(self, name: str, data: bytes) -> None:
        """Puts a file where there is none. Raises StoreError, also if there is one."""
        self._call("written", lambda files, root: _put(files, f"{root}/{name}", data, {"mode": "create"}), len(data))

    def replace(self, name: str, data: bytes, tag: str | None) -> None:
        """Puts a file in place of the version with this tag. Raises StoreError, also if there is another one."""
        condition = {"IfMatch": tag} if tag and self._keeps_tags else {}
        self._call("written", lambda files, root: _put(files, f"{root}/{name}", data, condition), len(data))

    def remove(self, name: str) -> None:
        """Removes a file; does nothing if there is none. Raises StoreError."""

        def remove(files: Any, root: str) -> None:
            with contextlib.suppress(FileNotFoundError):
                files.rm_file(f"{root}/{name}")

        self._call("written", remove)

    def _call(self, done: str, call: Callable[[Any, str], _Answer], size: int = 0) -> _Answer:
        seconds = ANSWER_S + size / SLOWEST_BYTES_PER_S
        if self._running is not None:
            self._running.join(seconds)
            if self._running.is_alive():
                waiting = TimeoutError("an earlier call is still without an answer")
                raise StoreError(self._failure(done, waiting, was_connected=True))
        try:
            return self._bounded(call, seconds)
        except Exception as error:  # each kind of store raises its own
            was_connected = self._connection is not None
            self._connection = None
            # an error that quotes a secret must not be printed as the cause of ours either
            cause = None if self._quotes_secrets(error) else error
            raise StoreError(self._failure(done, error, was_connected)) from cause

    def _bounded(self, call: Callable[[Any, str], _Answer], seconds: float) -> _Answer:
        answers: queue.SimpleQueue[tuple[_Answer | None, BaseException | None]] = queue.SimpleQueue()

        def work() -> None:
            try:
                answers.put((call(*self._connected()), None))
            except BaseException as error:
                answers.put((None, error))

        self._running = threading.Thread(target=work, name="evoprune-store", daemon=True)
        self._running.start()
        try:
            answer, error = answers.get(timeout=seconds)
        except queue.Empty:
            raise TimeoutError(f"no answer within {seconds:.0f} seconds") from None
        self._running = None
        if error is not None:
            raise error
        return answer  # type: ignore[return-value]  # None is an answer where _Answer has it

    def _connected(self) -> tuple[Any, str]:
        if self._connection is None:
            import fsspec

            files, root = fsspec.core.url_to_fs(self.url, skip_instance_cache=True)
            self._connection = files, str(root).rstrip("/")
        files, root = self._connection
        files.invalidate_cache()
        return files, root

    def _failure(self, done: str, error: Exception, was_connected: bool) -> str:
        if not was_connected and isinstance(error, ImportError | ValueError):
            return (
                f"{self.url} cannot be used: {self._words(error)}; "
                "install what it needs (for s3:// pip install 'evoprune[s3]')"
            )
        return f"{self.url} cannot be {done}: {self._words(error)}; see that it is there and that you may write there"

    def _words(self, error: Exception) -> str:
        """The message of a library's error, without this URL's secrets in whatever form."""
        return shown(" ".join(self._without_secrets(str(error)).split()) or type(error).__name__)

    def _without_secrets(self, text: str) -> str:
        for secret in _secrets(self.url):
            text = text.replace(secret, "***")
        return masked(text)

    def _quotes_secrets(self, error: BaseException | None) -> bool:
        if error is None:
            return False
        text = str(error)
        return text != self._without_secrets(text) or self._quotes_secrets(error.__cause__ or error.__context__)


def _put(files: Any, path: str, data: bytes, condition: dict[str, str]) -> None:
    protocols = [files.protocol] if isinstance(files.protocol, str) else files.protocol
    if not set(protocols) & set(_WITHOUT_FOLDERS):  # there, making a folder could make a bucket
        files.makedirs(path.rpartition("/")[0], exist_ok=True)
    files.pipe_file(path, data, **condition)


def _secrets(url: str) -> list[str]:
    """The password and the query's values of a URL, as they are written and as they are meant."""
    parts = urlsplit(url)
    query = [piece.partition("=")[2] for piece in parts.query.replace(";", "&").split("&")]
    written = [secret for secret in (parts.password, *query) if secret]
    return [form for secret in written for form in dict.fromkeys((secret, unquote(secret)))]
