"""A reader of CIFAR's "python version" batches, which are pickles, that never unpickles.

A pickle is a program for a stack machine that can call any function. This reader knows only the operations of the
published batches (protocol 2), keeps the calls in them as data, and accepts one call: the one that makes an array of
unsigned bytes. No name in a file is imported and nothing is called. torchvision's CIFAR10 and CIFAR100 unpickle.
"""

import pickletools
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from evoprune.data.bounded_reading import read_whole
from evoprune.data.formats import Labels, Pixels

_PIXELS = 3 * 32 * 32
_MOST_BYTES = 1 << 29  # the largest published batch has 155 MB
_MOST_OPERATIONS = 2_000_000  # the largest published batch has 300,000

_CONSTANTS = ("BININT", "BININT1", "BININT2", "BINSTRING", "SHORT_BINSTRING", "BINUNICODE")
_FIXED: dict[str, Any] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


@dataclass(frozen=True)
class _Name:
    """A function or class that the file names: "module name"."""

    name: str


@dataclass(eq=False)
class _Call:
    """A call that the file asks for, and the state that it gives to the result. Neither is carried out."""

    function: Any
    arguments: Any
    state: Any = None


_MARK = object()


def read_cifar_batch(path: Path) -> tuple[Pixels, Labels]:
    """Reads one batch of CIFAR-10 or CIFAR-100, python version, without running anything in it.

    Returns:
        Images uint8 (n, 3, 32, 32) and labels int64 (n,): the fine ones of CIFAR-100.

    Raises:
        ValueError, IndexError, KeyError, OSError: if the file is damaged or is not such a batch.
    """
    content = _contents(pickletools.genops(read_whole(path, _MOST_BYTES)))
    if not isinstance(content, dict) or "data" not in content:
        raise ValueError("the file must hold a dictionary with 'data'")
    labels = content.get("labels", content.get("fine_labels"))
    if not isinstance(labels, list) or not all(type(label) is int for label in labels):
        raise ValueError("'labels' or 'fine_labels' must be a list of whole numbers")
    return _images(content["data"]), np.array(labels, np.int64)


def _images(data: Any) -> Pixels:
    """The array that the call in `data` would make, if it is one of unsigned bytes, (n, 3072)."""
    match data:
        case _Call(
            _Name("numpy.core.multiarray _reconstruct" | "numpy._core.multiarray _reconstruct"),
            (_Name("numpy ndarray"), _, _),
            (1, (int(count), int(width)), kind, False, encoded),
        ):
            pass
        case _Call(_Name(function)):
            raise ValueError(f"'data' must be a plain array of two dimensions, not a call of {function!r}")
        case _:
            raise ValueError("'data' must be an array")
    match kind:
        case _Call(_Name("numpy dtype"), ("u1", *_)):
            pass
        case _:
            raise ValueError("'data' must be of type u1 (unsigned bytes)")
    pixels = _bytes(encoded)
    if width != _PIXELS or count < 0 or count * width != len(pixels):
        raise ValueError(f"'data' must be (n, {_PIXELS}) bytes, not ({count}, {width}) in {len(pixels)} bytes")
    return np.frombuffer(pixels, np.uint8).reshape(count, 3, 32, 32)


def _bytes(encoded: Any) -> bytes:
    """The bytes of a Python 2 string, or of the call that stands for bytes in protocol 2 of Python 3."""
    match encoded:
        case str(text) | _Call(_Name("_codecs encode"), (str(text), "latin1")):
            return text.encode("latin-1")
    raise ValueError("'data' must hold its elements as bytes")


def _contents(operations: Iterable[tuple[pickletools.OpcodeInfo, Any, Any]]) -> Any:
    """The object that the operations of a pickle build, with every call in it as a `_Call`."""
    stack: list[Any] = []
    memo: dict[int, Any] = {}
    for operation, argument, _ in islice(operations, _MOST_OPERATIONS):
        name = operation.name
        if name in _CONSTANTS:
            stack.append(argument)
        elif name in _FIXED:
            stack.append(_FIXED[name])
        elif name in _TUPLES:
            stack.append(tuple(_taken(stack, _TUPLES[name])))
        elif name in ("BINPUT", "LONG_BINPUT"):
            memo[argument] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(memo[argument])
        elif name == "STOP":
            return stack.pop()
        elif name != "PROTO":
            _build(stack, name, argument)
    raise ValueError(f"the file must have at most {_MOST_OPERATIONS} operations")


def _build(stack: list[Any], name: str, argument: Any) -> None:
    """Carries out an operation that makes or fills a container or a call."""
    match name:
        case "MARK":
            stack.append(_MARK)
        case "EMPTY_LIST":
            stack.append([])
        case "EMPTY_DICT":
            stack.append({})
        case "GLOBAL":
            stack.append(_Name(argument))
        case "TUPLE":
            stack.append(tuple(_since_mark(stack)))
        case "APPEND":
            _extend(stack, _taken(stack, 1))
        case "APPENDS":
            _extend(stack, _since_mark(stack))
        case "SETITEM":
            _set_items(stack, _taken(stack, 2))
        case "SETITEMS":
            _set_items(stack, _since_mark(stack))
        case "REDUCE":
            function, arguments = _taken(stack, 2)
            stack.append(_Call(function, arguments))
        case "BUILD":
            call, state = _taken(stack, 2)
            if not isinstance(call, _Call):
                raise ValueError("the file gives a state to what is not the result of a call")
            call.state = state
            stack.append(call)
        case _:
            raise ValueError(f"the published files have no operation {name}")


def _taken(stack: list[Any], count: int) -> list[Any]:
    if len(stack) < count:
        raise ValueError("the file takes more values from the stack than it put there")
    taken = stack[-count:]
    del stack[-count:]
    return taken


def _since_mark(stack: list[Any]) -> list[Any]:
    """Takes all values from the last mark on, and the mark."""
    for place in range(len(stack) - 1, -1, -1):
        if stack[place] is _MARK:
            taken = stack[place + 1 :]
            del stack[place:]
            return taken
    raise ValueError("the file has no mark where its values begin")


def _extend(stack: list[Any], values: list[Any]) -> None:
    if not isinstance(stack[-1], list):
        raise ValueError("the file appends to what is not a list")
    stack[-1].extend(values)


def _set_items(stack: list[Any], items: list[Any]) -> None:
    """Only strings are keys: the hash of a tuple in a tuple in a tuple ... ends the process."""
    keys, values = items[::2], items[1::2]
    if not isinstance(stack[-1], dict) or not all(isinstance(key, str) for key in keys):
        raise ValueError("the file must set items of dictionaries by strings")
    stack[-1].update(zip(keys, values, strict=True))
