"""Standard output and standard error of a command: a stream that cannot be written never ends it, and warnings."""

import io
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from evoprune.errors import shown


class LossyStream(io.TextIOBase):
    """A text stream that drops what cannot be written.

    Attributes:
        problem: The error by which text was lost, or None; always None if the stream was closed from the start.
    """

    def __init__(self, stream: TextIO | None):
        self._stream = stream
        self.problem: Exception | None = None

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """The encoding of the stream; utf-8 without one."""
        return (self._stream and self._stream.encoding) or "utf-8"

    @property
    def errors(self) -> str | None:  # type: ignore[override]
        """The error handler of the stream's encoding."""
        return self._stream.errors if self._stream else None

    def writable(self) -> bool:
        """True, whether or not text is lost."""
        return True

    def isatty(self) -> bool:
        """True if the stream is a terminal."""
        return self._stream is not None and not self._stream.closed and self._stream.isatty()

    def fileno(self) -> int:
        """The stream's file descriptor. Raises io.UnsupportedOperation if there is none."""
        if self._stream is None:
            raise io.UnsupportedOperation("the stream is closed")
        return self._stream.fileno()

    def write(self, text: str) -> int:
        """Writes text, with escapes for characters that the encoding does not have."""
        if not isinstance(text, str):
            raise TypeError(f"a text stream writes str, not {type(text).__name__}")
        if self._stream is not None:
            try:
                self._stream.write(text.encode(self.encoding, "backslashreplace").decode(self.encoding))
            except (OSError, ValueError) as error:  # ValueError: closed in the meantime
                self.problem = error
        return len(text)

    def flush(self) -> None:
        """Writes buffered text, or drops it if that is impossible."""
        if self._stream is not None:
            try:
                self._stream.flush()
            except (OSError, ValueError) as error:
                self.problem = error


def take_standard_streams() -> LossyStream:
    """Makes standard output and standard error lossy, for this process. Returns standard output.

    If one of them was closed by the caller (`>&-`), its descriptor is opened on the null device. Otherwise the next
    file that is opened would get it, and a native library that prints a message would print it into that file.
    """
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)
    sys.stderr = LossyStream(sys.stderr)
    sys.stdout = output = LossyStream(sys.stdout)
    return output


class _WarningHandler(logging.Handler):
    """Prints records as lines on standard error, without control characters and secrets.

    A live display replaces `sys.stderr` while it runs, so that lines appear above its bars.
    """

    def emit(self, record: logging.LogRecord) -> None:
        try:
            sys.stderr.write(f"{record.levelname.lower()}: {shown(record.getMessage())}\n")
            sys.stderr.flush()
        except Exception:
            self.handleError(record)


@contextmanager
def printed_warnings() -> Iterator[None]:
    """Warnings of evoprune are printed on standard error; whoever uses evoprune from Python configures logging."""
    logger, handler = logging.getLogger("evoprune"), _WarningHandler(logging.WARNING)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
