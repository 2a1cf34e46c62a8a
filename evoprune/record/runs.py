"""Reading a run: its tables and its networks."""

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from evoprune.config.choices import LIBRARIES
from evoprune.config.loading import round_configs
from evoprune.config.schema import Config
from evoprune.costs.costs_by_name import COUNTED
from evoprune.data.input_format import InputFormat
from evoprune.errors import RunFolderError
from evoprune.record import files
from evoprune.record.columns import empty
from evoprune.record.costs import CostInfo, cost_info, whole_cost
from evoprune.record.folder import RunFolder
from evoprune.record.fronts import Corner
from evoprune.record.json_files import read_space
from evoprune.record.layer_tables import (
    KEPT_DTYPES,
    LAYER_DTYPES,
    STRIDE_DTYPES,
    kept_by_generation,
    layers_frame,
    read_layers,
    stride_masks_frame,
)
from evoprune.record.places import is_remote, local_path
from evoprune.record.store import fetched
from evoprune.record.stored_config import read_config
from evoprune.record.survivor_files import SavedSurvivor, read_survivor
from evoprune.record.tables import generations_frame, read_candidates, read_survivors

if TYPE_CHECKING:
    import torch
    from torch import nn

    from evoprune.space.search_space import SearchSpace


@dataclass(frozen=True)
class Run:
    """A run, finished or not. Reads each file of its folder when it is first asked for, and writes nothing.

    Attributes:
        root: the run folder.
        network: the unpruned network, if it was given as an object, so that no config can build it.

    Example:
        >>> run = ep.load_run("results/quickstart")
        >>> run.survivors[["key", "macs_ratio", "mcr_test"]]
        >>> model = run.load_survivor(run.survivors["key"][0])
    """

    root: Path
    network: "nn.Module | None" = None

    @cached_property
    def config(self) -> Config:
        """The resolved config; keys that this version does not know are left out, with a warning."""
        return read_config(self._folder.config)

    @cached_property
    def rounds(self) -> tuple[Config, ...]:
        """The config of each round; the resolved config itself if there is only one."""
        return round_configs(self.config)

    @cached_property
    def candidates(self) -> pd.DataFrame:
        """One row for each candidate and generation; the columns of `tables.CANDIDATE_DTYPES`."""
        return read_candidates(self._folder)

    @cached_property
    def generations(self) -> pd.DataFrame:
        """One row for each generation; the columns of `tables.generations_frame`."""
        return generations_frame(self.candidates, self.corner)

    @cached_property
    def survivors(self) -> pd.DataFrame:
        """One row for each survivor, none before the run is finished; the columns of `tables.SurvivorRow`."""
        return read_survivors(self._folder)

    @cached_property
    def layers(self) -> pd.DataFrame:
        """One row for each survivor and layer, none before the run is finished; the columns of LAYER_DTYPES."""
        written = read_layers(self._folder)
        if written is not None and not self.survivors.empty:
            return written
        genomes = self._survivor_genomes()
        return layers_frame(self._reference.space, self.space, genomes, {}, {}) if genomes else empty(LAYER_DTYPES)

    @cached_property
    def kept_by_generation(self) -> pd.DataFrame:
        """The share of each layer that the front keeps, by generation; the columns of KEPT_DTYPES."""
        if self.candidates.empty:
            return empty(KEPT_DTYPES)
        return kept_by_generation(self.space, self.candidates, self.cost.column)

    @cached_property
    def stride_masks(self) -> pd.DataFrame:
        """One row for each survivor, layer and stride mask in use; the columns of STRIDE_DTYPES."""
        genomes = self._survivor_genomes()
        return stride_masks_frame(self.space, genomes) if genomes else empty(STRIDE_DTYPES)

    @cached_property
    def space(self) -> "SearchSpace":
        """The search space of the genomes."""
        return read_space(self._folder)

    @cached_property
    def cost(self) -> CostInfo:
        """The cost that the search minimises: its column in the tables, and its label in plots."""
        return cost_info(self._folder, self.config.search.cost)

    @cached_property
    def corner(self) -> Corner | None:
        """The worst point of a feasible candidate; None before the unpruned network is scored."""
        reference = self._reference
        if not RunFolder(reference.root).space.is_file():
            return None
        whole = reference.space.full()
        scored = reference.candidates[reference.candidates["key"] == reference.space.key(whole)]
        mcr = scored["mcr"].dropna()
        if mcr.empty:
            return None
        first = RunFolder(reference.root)
        cost = whole_cost(self._folder, first, reference.space, self.config.search.cost)
        return Corner(self.cost.column, cost, float(mcr.iloc[0]) + self._tolerance)

    @property
    def baseline_point(self) -> tuple[float, float] | None:
        """Cost (in the unit of search.cost) and MCR of the unpruned network, as scored; None before it is."""
        return (self.corner.cost, self.corner.mcr - self._tolerance) if self.corner else None

    @property
    def other_cost(self) -> tuple[str, float] | None:
        """The column of `search.cost`, and the unpruned network's value; None for MACs, parameters and bytes."""
        if self.cost.column in COUNTED or self.corner is None:
            return None
        return self.cost.column, self.corner.cost

    def genome(self, key: str) -> np.ndarray:
        """The genome of a candidate.

        Args:
            key: the key, or a beginning that no other key has.

        Returns:
            uint8 (genes,).

        Raises:
            RunFolderError: there is no such key; names the nearest ones.
        """
        found = self._full_key(key, sorted(set(self.candidates["key"])), "candidate")
        row = int((self.candidates["key"] == found).to_numpy().argmax())
        return np.frombuffer(self.candidates["genome"].iloc[row], dtype=np.uint8).copy()

    def load_survivor(self, key: str, network: "nn.Module | None" = None) -> "nn.Module":
        """The retrained, compacted network of a survivor, on the CPU, in eval mode.

        Args:
            key: as in `genome`.
            network: the unpruned network with any weights. It is needed if the run has none and `model.network` is
                `module:attribute`, because reading a run never imports code that its folder names.

        Raises:
            UserError: there is no such survivor, or its files are damaged or do not fit each other.
        """
        key = self._full_key(key, sorted(self.survivors["key"]), "survivor")
        space, survivor = self._saved(key)
        network = network or self.network
        if network is None:
            network = self._fresh_network(survivor.inputs)
        for earlier in self._earlier_rounds():
            network = earlier.hand_on(network)
        return self._rebuilt(network, key, space, survivor)

    def load_baseline(self, network: "nn.Module | None" = None) -> "nn.Module":
        """The unpruned network, on the CPU, in eval mode. Arguments and errors as of `load_survivor`."""
        from evoprune.networks.weights import load_weights
        from evoprune.space.tensors import copied

        network = copied(network or self.network or self._fresh_network(self.input_format))
        first = (*self._earlier_rounds(), self)[0]._folder
        load_weights(network, files.read_tensors(first.baseline)[0], str(first.baseline))
        return network.cpu().eval()

    def survivor_masks(self, key: str) -> "dict[str, torch.Tensor]":
        """The weights that stay, of each layer of a survivor that loses kernels or taps: bool, by name."""
        from evoprune.space.tensors import cut_masks

        return cut_masks(self.space, self.space.check(self.genome(key)))

    @cached_property
    def input_format(self) -> InputFormat:
        """The images that its networks read; without mean and deviation if an earlier version wrote the run.

        Raises:
            RunFolderError: Before there are survivors.
        """
        if self.survivors.empty:
            raise RunFolderError(f"{self.root} has no survivors; raise search.tolerance or search for longer")
        _, survivor = self._saved(self.survivors["key"].iloc[0])
        return survivor.inputs

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(c, h, w) of the images that its networks read. Raises RunFolderError before there are survivors."""
        return self.input_format.image_shape

    def hand_on(self, network: "nn.Module") -> "nn.Module":
        """The network that this round hands on to the next one: its cheapest survivor, or its own if it has none.

        Args:
            network: the one that the round started from, with any weights; not changed.
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
        last = len(self.rounds) if outer is None else int(self.root.absolute().name)
        return [Run((outer or self._folder).round(number).root) for number in range(1, last)]

    @property
    def _reference(self) -> "Run":
        """The run or round that started from the unpruned network."""
        return next(iter(self._earlier_rounds()), self)

    @property
    def _tolerance(self) -> float:
        return self.rounds[-1].search.allowed_rise

    def _survivor_genomes(self) -> dict[str, np.ndarray]:
        return {key: self.genome(key) for key in self.survivors["key"]}

    def _saved(self, key: str) -> "tuple[SearchSpace, SavedSurvivor]":
        return self.space, read_survivor(self._folder.survivor(key), self.space, self.genome(key))

    def _rebuilt(self, network: "nn.Module", key: str, space: "SearchSpace", survivor: SavedSurvivor) -> "nn.Module":
        """The survivor, built from the network that this round started from."""
        from evoprune.networks.weights import load_weights
        from evoprune.surgery.apply import compact

        small = compact(network, space, self.genome(key))
        load_weights(small, survivor.tensors, str(self._folder.survivor(key)))
        return small.cpu().eval()

    def _fresh_network(self, inputs: InputFormat) -> "nn.Module":
        import torch

        from evoprune.networks.zoo import build_network

        name = self.config.model.network
        if name == "given" or (":" in name and not name.startswith(LIBRARIES)):
            raise RunFolderError(
                f"{self.root}: its network ({name}) is code, which reading a run does not import; "
                "build it yourself and give it as load_survivor(key, network=...)"
            )
        return build_network(name, inputs.image_shape, inputs.classes, torch.Generator().manual_seed(0))

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
    """A run, to be read.

    Args:
        path: its folder, or an fsspec URL, of which a copy is made.

    Raises:
        RunFolderError: there is no run, or a file or folder of it is a link.

    Example:
        >>> run = ep.load_run("results/quickstart")
    """
    folder = RunFolder(fetched(str(path)) if is_remote(path) else local_path(path))
    refuse_no_run(folder, path)
    folder.refuse_links()
    return Run(folder.root)


def refuse_no_run(folder: RunFolder, place: str | Path) -> None:
    """Raises RunFolderError if there is no run in the folder. place: the folder as the user named it."""
    if not folder.holds_run():
        raise RunFolderError(
            f"{place} holds no run ({folder.config.name} and {folder.environment.name}); "
            "give a folder that `evoprune run` made"
        )


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
