"""Reading runs: one as an object with its frames and networks, many as one table."""

import copy
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import UnionType
from typing import TYPE_CHECKING, Any, Union, get_args, get_origin

import numpy as np
import pandas as pd
from pydantic import BaseModel

from evoprune.config import Config, load_config
from evoprune.errors import RunFolderError
from evoprune.record import files
from evoprune.record.folder import RunFolder
from evoprune.record.survivors import SavedSurvivor, read_survivor
from evoprune.record.tables import generations_frame, read_candidates, read_survivors, survivors_frame

if TYPE_CHECKING:
    import torch
    from torch import nn

    from evoprune.space.plan import SearchSpace


@dataclass(frozen=True)
class Run:
    """A run, finished or not, as its folder has it. Reads each part when first asked for, and only reads.

    network: the unpruned network, where it was given as an object and no config can build it.
    """

    root: Path
    network: "nn.Module | None" = None

    @cached_property
    def config(self) -> Config:
        """The config as resolved."""
        return load_config(self._folder.config)

    @cached_property
    def candidates(self) -> pd.DataFrame:
        """One row a candidate and generation; columns: `tables.CANDIDATE_DTYPES`."""
        return read_candidates(self._folder)

    @cached_property
    def generations(self) -> pd.DataFrame:
        """One row a generation; columns: `tables.generations_frame`."""
        return generations_frame(self.candidates)

    @cached_property
    def survivors(self) -> pd.DataFrame:
        """One row a survivor, empty before the run is done; columns: `tables.SurvivorRow`."""
        return read_survivors(self._folder)

    def genome(self, key: str) -> np.ndarray:
        """The genome of a candidate, uint8 (genes,); `key` may be the beginning of one key alone.

        Raises RunFolderError that names the nearest keys where it is none.
        """
        found = self._full_key(key, sorted(set(self.candidates["key"])), "candidate")
        row = int((self.candidates["key"] == found).to_numpy().argmax())
        return np.frombuffer(self.candidates["genome"].iloc[row], dtype=np.uint8).copy()

    def load_survivor(self, key: str, network: "nn.Module | None" = None) -> "nn.Module":
        """A survivor's retrained, compacted network, on the CPU, in eval mode; `key` as in `genome`.

        network: the unpruned network with whatever weights, which is needed where the run has none and
        `model.network` is `module:callable`: reading a run never imports code that its folder names.
        Raises UserError where there is no such survivor, or its files are damaged or do not fit each other.
        """
        key = self._full_key(key, sorted(self.survivors["key"]), "survivor")
        space, survivor = self._saved(key)
        network = network or self.network
        if network is None:
            network = self._fresh_network(survivor.image_shape, survivor.classes)
        for earlier in self._earlier_rounds():
            network = earlier.hand_on(network)
        return self._rebuilt(network, key, space, survivor)

    def load_baseline(self, network: "nn.Module | None" = None) -> "nn.Module":
        """The unpruned network that ratios are against, on the CPU, in eval mode. network: as in `load_survivor`."""
        from evoprune.nets.weights import load_weights

        network = copy.deepcopy(network or self.network or self._fresh_network(*self._images()))
        first = (*self._earlier_rounds(), self)[0]._folder
        load_weights(network, files.read_tensors(first.baseline)[0], str(first.baseline))
        return network.cpu().eval()

    def survivor_masks(self, key: str) -> "dict[str, torch.Tensor]":
        """Which weights stay of the survivor's layers that lose kernels or taps: bool of their shapes, by name."""
        from evoprune.space.plan import SearchSpace
        from evoprune.space.slicing import cut_masks

        space = SearchSpace.from_dict(files.read_json(self._folder.space))
        return cut_masks(space, space.check(self.genome(key)))

    def _images(self) -> tuple[tuple[int, int, int], int]:
        """The shape of the images, and the number of classes."""
        if self.survivors.empty:
            raise RunFolderError(f"{self.root} has no survivors; raise search.tolerance or search for longer")
        _, survivor = self._saved(self.survivors["key"].iloc[0])
        return survivor.image_shape, survivor.classes

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(c, h, w) of the images that its networks read. Raises RunFolderError before there are survivors."""
        return self._images()[0]

    def hand_on(self, network: "nn.Module") -> "nn.Module":
        """What this round hands on to the next: its cheapest survivor; where it has none, the network as it is.

        network: what the round started from, with whatever weights; not changed.
        """
        if self.survivors.empty:
            return network
        key = self.survivors["key"].iloc[0]
        return self._rebuilt(network, key, *self._saved(key))

    @property
    def _folder(self) -> RunFolder:
        return RunFolder(self.root)

    def _earlier_rounds(self) -> list["Run"]:
        outer = self._folder.round_of()
        last = len(self.config.search.rounds) if outer is None else int(self.root.absolute().name)
        return [Run((outer or self._folder).round(number).root) for number in range(1, last)]

    def _saved(self, key: str) -> "tuple[SearchSpace, SavedSurvivor]":
        from evoprune.space.plan import SearchSpace

        space = SearchSpace.from_dict(files.read_json(self._folder.space))
        return space, read_survivor(self._folder.survivor(key), space, self.genome(key))

    def _rebuilt(self, network: "nn.Module", key: str, space: "SearchSpace", survivor: SavedSurvivor) -> "nn.Module":
        """The survivor, out of the network that this round started from."""
        from evoprune.nets.weights import load_weights
        from evoprune.surgery.compaction import compact

        small = compact(network, space, self.genome(key))
        load_weights(small, survivor.tensors, str(self._folder.survivor(key)))
        return small.cpu().eval()

    def _fresh_network(self, image_shape: tuple[int, int, int], classes: int) -> "nn.Module":
        import torch

        from evoprune.nets.zoo import build_network

        name = self.config.model.network
        if name == "given" or (":" in name and not name.startswith("torchvision:")):
            raise RunFolderError(
                f"{self.root}: its network ({name}) is code, which reading a run does not import; "
                "build it yourself and give it as load_survivor(key, network=...)"
            )
        return build_network(name, image_shape, classes, torch.Generator().manual_seed(0))

    def _full_key(self, key: str, known: list[str], what: str) -> str:
        """The one of the sorted `known` keys that begins with `key`."""
        place = bisect_left(known, key)
        matches = [candidate for candidate in known[place : place + 2] if candidate.startswith(key)]
        if len(matches) == 1 or key in matches:
            return matches[0]
        if matches:
            raise RunFolderError(f"{self.root}: {key!r} begins several keys ({', '.join(matches)}, ...); give more")
        # in sorted order, those that share the longest beginning are neighbours
        nearest = ", ".join(known[max(0, place - 1) : place + 2]) or "none yet"
        raise RunFolderError(f"{self.root}: no {what} has the key {key!r}; the nearest: {nearest}")


def load_run(path: str | Path) -> Run:
    """The run in a folder. Reads only; raises RunFolderError where the folder holds none."""
    folder = RunFolder(Path(path))
    if not folder.holds_run():
        raise RunFolderError(
            f"{path} holds no run ({folder.config.name} and {folder.environment.name}); "
            "give a folder that `evoprune run` made"
        )
    return Run(folder.root)


def load_runs(path: str | Path) -> pd.DataFrame:
    """One row a survivor over all runs at or below a folder, at any depth, in the order of their paths.

    The earlier rounds of a run are no runs of their own here.
    `run` (path relative to the folder), the survivors' columns, then every config key as a column:
    `search.tolerance` and so on. Lists are joined by commas. A run without survivors has no rows.
    Raises RunFolderError where there is no such folder or a run in it is damaged.
    """
    top = Path(path)
    if not top.is_dir():
        raise RunFolderError(f"{path} is no folder; give one with run folders below it")
    roots = sorted(config.parent for config in top.rglob(RunFolder(top).config.name))
    folders = [folder for root in roots if (folder := RunFolder(root)).holds_run() and not folder.round_of()]
    runs = [Run(folder.root) for folder in folders]
    dtypes = {"run": "str", **_config_dtypes(Config)}
    settings = [{"run": run.root.relative_to(top).as_posix(), **flat_config(run.config)} for run in runs]
    survivors = pd.concat([survivors_frame([]), *(run.survivors for run in runs)], ignore_index=True)
    lengths = [len(run.survivors) for run in runs]
    by_run = pd.DataFrame(
        {name: pd.Series([row[name] for row in settings], dtype=dtype) for name, dtype in dtypes.items()}
    )
    by_survivor = by_run.loc[by_run.index.repeat(lengths)].reset_index(drop=True)
    return pd.concat([by_survivor[["run"]], survivors, by_survivor.drop(columns="run")], axis="columns")


def flat_config(config: Config) -> dict[str, Any]:
    """The config's values by dotted key (`search.tolerance`), each a string, number, boolean or None."""
    return _flat(config.model_dump(mode="json"), "")


def _flat(section: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in section.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = ",".join(map(str, value)) if isinstance(value, list) else value
    return flat


def _config_dtypes(section: type[BaseModel], prefix: str = "") -> dict[str, str]:
    """The column type of every dotted key, out of the schema: the same for no run, one and many."""
    dtypes: dict[str, str] = {}
    for key, field in section.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            dtypes |= _config_dtypes(field.annotation, f"{prefix}{key}.")
        else:
            dtypes[f"{prefix}{key}"] = _column_dtype(field.annotation)
    return dtypes


def _column_dtype(annotation: Any) -> str:
    if get_origin(annotation) in (Union, UnionType):
        possible = [option for option in get_args(annotation) if option is not type(None)]
        # a number or a word, as workers.count: words hold both
        return _column_dtype(possible[0]) if len(possible) == 1 else "str"
    return {bool: "boolean", int: "Int64", float: "Float64"}.get(annotation, "str")
