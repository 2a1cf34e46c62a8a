"""The input of a network: the images that it was trained on, as metadata that travel with its weights."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

LAYOUT, DTYPE = "NCHW", "float32"

RGB, GREY = "RGB", "grey"


@dataclass(frozen=True)
class InputFormat:
    """The images that a network reads and the classes that it tells apart.

    A network of evoprune reads normalised images: `(pixel - mean) / std`, channel by channel.

    Attributes:
        image_shape: Channels, height and width.
        classes: Number of classes.
        mean: Mean of each channel over the training images; None if unknown.
        std: Standard deviation of each channel, likewise.
        value_range: Smallest and largest value that a pixel can have before it is normalised; None if unknown, as of
            a user's own floats.
        colours: Order of the channels, `RGB` or `grey`; None if unknown.
        class_names: One name per class; None if the data set has none.
    """

    image_shape: tuple[int, int, int]
    classes: int
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    value_range: tuple[float, float] | None = None
    colours: str | None = None
    class_names: tuple[str, ...] | None = None

    def to_metadata(self, normalisation_inside: bool) -> dict[str, str]:
        """The format as strings, lists as JSON; unknown values are left out.

        Args:
            normalisation_inside: Whether the network in the file normalises pixels itself.
        """
        known = {
            "image_shape": self.image_shape,
            "classes": self.classes,
            "mean": self.mean,
            "std": self.std,
            "value_range": self.value_range,
            "class_names": self.class_names,
        }
        metadata = {name: json.dumps(value) for name, value in known.items() if value is not None}
        metadata |= {} if self.colours is None else {"colours": self.colours}
        inside = "inside" if normalisation_inside else "outside"
        return metadata | {"layout": LAYOUT, "dtype": DTYPE, "normalisation": inside}

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str]) -> Self:
        """The format that `to_metadata` wrote.

        Raises:
            ValueError: If a value is missing or not one that `to_metadata` writes.
        """
        try:
            channels, height, width = (int(size) for size in json.loads(metadata["image_shape"]))
            names = _optional(metadata, "class_names")
            found = cls(
                image_shape=(channels, height, width),
                classes=int(json.loads(metadata["classes"])),
                mean=_numbers(_optional(metadata, "mean"), channels),
                std=_numbers(_optional(metadata, "std"), channels),
                value_range=_numbers(_optional(metadata, "value_range"), 2),  # type: ignore[arg-type]
                colours=metadata.get("colours"),
                class_names=None if names is None else tuple(map(str, names)),
            )
        except (KeyError, TypeError, OverflowError, RecursionError) as error:
            raise ValueError(f"no description of a network's input: {error!r}") from error
        if found.class_names is not None and len(found.class_names) != found.classes:
            raise ValueError(f"{len(found.class_names)} class names for {found.classes} classes")
        if found.std is not None and min(found.std) <= 0:
            raise ValueError(f"standard deviations must be above 0, not {min(found.std)}")
        return found


def _optional(metadata: Mapping[str, str], name: str) -> Any:
    return json.loads(metadata[name]) if name in metadata else None


def _numbers(values: Any, count: int) -> tuple[float, ...] | None:
    """So many finite numbers; None for None. Raises ValueError or TypeError if they are anything else."""
    if values is None:
        return None
    numbers = tuple(float(value) for value in values)
    if len(numbers) != count or not all(map(math.isfinite, numbers)):
        raise ValueError(f"{count} finite numbers are needed, not {values}")
    return numbers
