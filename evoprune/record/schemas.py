"""The schema of every JSON text that a run stores. A file is validated against it before anything in it is used.

Checksums find accidents alone: anybody can make one for a file of their own. So types, ranges and keys count, as in a
config: strict, without unknown keys. Bounds are generous and keep a forged file from asking for memory or time without
end.
"""

import math
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, Json, JsonValue, RootModel, StringConstraints, model_validator

from evoprune.config.choices import FitnessName, StrideSharing
from evoprune.search.loop import STEADY_STATE_BATCHES

MOST_ELEMENTS = 2**28
"""Elements of one tensor; the largest in torchvision has 103 million."""

_MOST = 2**53  # whole numbers up to here are exact in every reader of JSON

Count = Annotated[int, Field(ge=0, le=_MOST)]
Size = Annotated[int, Field(ge=1, le=MOST_ELEMENTS)]
Dimension = Annotated[int, Field(ge=0, le=7)]
Share = Annotated[float, Field(ge=0, le=1)]
Name = Annotated[str, StringConstraints(min_length=1, max_length=1000)]
Key = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{1,64}$")]
Hex = Annotated[str, StringConstraints(pattern=r"^([0-9a-f]{2})*$")]
Point = tuple[float, float]
Shape = Annotated[list[Size], Field(max_length=8)]


class Stored(BaseModel):
    """Plain data of a file of a run: strict about types, without unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


# --- environment.json


class StoredEnvironment(RootModel[dict[Name, str | int | float | None]]):
    """Versions and machine, by name."""

    model_config = ConfigDict(strict=True)


# --- identity.json


class StoredIdentity(RootModel[dict[Name, Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]]]):
    """SHA-256 by what was hashed."""

    model_config = ConfigDict(strict=True)


# --- execution.json


class StoredExecution(Stored):
    """As `scoring.execution.Execution`."""

    batch_size: Annotated[int, Field(ge=1, le=2**20)]
    calibration_batch_size: Annotated[int, Field(ge=1, le=2**20)]
    compacted: bool
    fused: bool
    channels_last: bool
    early_stop: bool


# --- the metadata of survivors/*.safetensors, whose values are JSON texts


class StoredInput(Stored):
    """As `data.input_format.InputFormat`."""

    image_shape: Json[tuple[Size, Size, Size]]
    classes: Json[Annotated[int, Field(ge=1, le=2**20)]]
    mean: Json[list[float]] | None = None
    std: Json[list[float]] | None = None
    value_range: Json[Point] | None = None
    colours: Literal["RGB", "grey"] | None = None
    class_names: Json[list[str]] | None = None
    layout: Literal["NCHW"] | None = None
    dtype: Literal["float32"] | None = None
    normalisation: Literal["inside", "outside"] | None = None

    @model_validator(mode="after")
    def _of_possible_size(self) -> Self:
        if math.prod(self.image_shape) > MOST_ELEMENTS:
            raise ValueError(f"an image has at most {MOST_ELEMENTS} values")
        return self


# --- latency.json


class StoredLayerTimes(Stored):
    """As `latency.prediction.LayerTimes`."""

    weight: Name
    outputs: Annotated[list[Size], Field(min_length=1, max_length=100)]
    inputs: Annotated[list[Size], Field(min_length=1, max_length=100)]
    ms: list[list[Annotated[float, Field(ge=0)]]]
    masked: Annotated[list[Point], Field(min_length=1, max_length=100)]

    @model_validator(mode="after")
    def _a_time_for_every_width(self) -> Self:
        if len(self.ms) != len(self.outputs) or any(len(row) != len(self.inputs) for row in self.ms):
            raise ValueError("ms must have a row for each of outputs and a column for each of inputs")
        return self


class StoredLatencyTable(Stored):
    """As `latency.prediction.LatencyTable`."""

    layers: list[StoredLayerTimes]
    rest: Annotated[list[Point], Field(min_length=1, max_length=100)]


class StoredLatency(Stored):
    """The times of a search space's layers, and the machine they were measured on."""

    space: Key
    machine: str | None
    table: StoredLatencyTable


# --- cost.json


class StoredCost(Stored):
    """A cost of the user's own: its name in the config, what tables and plots show, and what was measured for it."""

    space: Key
    cost: Name
    name: Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,59}$")]
    column: Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,59}$")]
    label: Annotated[str, StringConstraints(pattern=r"^[^\x00-\x1f\x7f-\x9f]{0,200}$")]
    whole: Annotated[float, Field(ge=0)]
    measured: Any = None


# --- space.json


class _Shaped(Stored):
    shape: Shape

    @model_validator(mode="after")
    def _of_possible_size(self) -> Self:
        if math.prod(self.shape) > MOST_ELEMENTS:
            raise ValueError(f"a tensor has at most {MOST_ELEMENTS} elements")
        return self


class StoredGroup(Stored):
    """As `space.plan.Group`."""

    name: Name
    start: Count
    size: Size
    layers: list[Name]
    minimum: Count
    round_to: Size


class StoredAxis(Stored):
    """As `space.plan.Axis`."""

    tensor: Name
    dim: Dimension
    gene: list[Annotated[int, Field(ge=-1, le=2**31 - 1)]]


class StoredLayer(_Shaped):
    """As `space.plan.Layer`."""

    name: Name
    weight: Name
    kind: Name
    positions: Count
    groups: Size
    out_dim: Dimension
    in_dim: Dimension
    channels_per_group: Count


class StoredNorm(Stored):
    """As `space.plan.Norm`."""

    module: str
    weight: Name
    dim: Annotated[int, Field(ge=-8, le=7)]
    channels_per_group: Count


class _OutsideTensors(Stored):
    gene: Annotated[list[Annotated[int, Field(ge=-1, le=2**31 - 1)]], Field(min_length=1)]


class StoredReduction(_OutsideTensors):
    """As `space.outside_tensors.Reduction`."""

    module: str
    operation: Name
    call: Count
    dim: Dimension


class StoredProduct(_OutsideTensors):
    """As `space.outside_tensors.Product`."""

    macs: Count


class StoredSize(_OutsideTensors):
    """As `space.outside_tensors.Size`."""

    module: str
    attribute: Name


class StoredTensor(_Shaped):
    """As `space.plan.TensorInfo`."""

    name: Name
    itemsize: Annotated[int, Field(ge=1, le=16)]
    parameter: bool


class StoredFrozen(Stored):
    """As `space.plan.Frozen`."""

    name: str
    reason: str


class _KernelPart(Stored):
    weight: Name
    start: Count
    shape: tuple[Size, Size]


class StoredKernels(_KernelPart):
    """As `space.kernel_genes.KernelGenes`."""

    block: Size


class StoredStrides(_KernelPart):
    """As `space.kernel_genes.StrideGenes`."""

    kernel_size: Annotated[list[Annotated[int, Field(ge=1, le=1000)]], Field(min_length=1, max_length=3)]
    sharing: StrideSharing
    groups: Size
    table: Annotated[list[tuple[Count, Size]], Field(min_length=1, max_length=255)]


class StoredSpace(Stored):
    """A search space, as `space.serialization.plan_to_dict` writes it."""

    groups: list[StoredGroup]
    axes: list[StoredAxis]
    layers: list[StoredLayer]
    norms: list[StoredNorm]
    tensors: list[StoredTensor]
    frozen: list[StoredFrozen]
    fixed_macs: Count
    kernels: list[StoredKernels]
    strides: list[StoredStrides]
    reductions: list[StoredReduction] = []
    products: list[StoredProduct] = []
    sizes: list[StoredSize] = []

    @model_validator(mode="after")
    def _parts_follow_each_other(self) -> Self:
        genes = 0
        for group in self.groups:
            if group.start != genes:
                raise ValueError(f"group {group.name} starts at gene {group.start}, not {genes}")
            genes += group.size
        weights = {layer.weight: layer for layer in self.layers}
        places: list[StoredAxis | _OutsideTensors] = [*self.axes, *self.reductions, *self.products, *self.sizes]
        if genes > MOST_ELEMENTS or any(gene >= genes for place in places for gene in place.gene):
            raise ValueError(f"an axis has a gene that is not one of {genes}")
        parts: list[_KernelPart] = [*self.kernels, *self.strides]
        for part in parts:
            if part.weight not in weights or tuple(weights[part.weight].shape[:2]) != part.shape:
                raise ValueError(f"the genes of {part.weight} are of another shape than its layer")
        masked = {part.weight for part in parts}
        if sum(math.prod(weights[weight].shape) for weight in masked) > MOST_ELEMENTS:
            raise ValueError(f"layers with kernel or stride genes have at most {MOST_ELEMENTS} weights")
        return self


# --- checkpoints/gen-*.json


class _PCG64State(Stored):
    state: Annotated[int, Field(ge=0, lt=2**128)]
    inc: Annotated[int, Field(ge=0, lt=2**128)]


class StoredGenerator(Stored):
    """The state of numpy's PCG64."""

    bit_generator: Literal["PCG64"]
    state: _PCG64State
    has_uint32: Annotated[int, Field(ge=0, le=1)]
    uinteger: Annotated[int, Field(ge=0, lt=2**32)]


SomeKeys = Annotated[list[Key], Field(min_length=1)]


class StoredAlgorithm(BaseModel):
    """The state of an algorithm, each of which has some of these; one from outside of evoprune may have more."""

    model_config = ConfigDict(frozen=True, extra="allow", strict=True, allow_inf_nan=False)
    __pydantic_extra__: dict[str, JsonValue]

    rng: StoredGenerator | None = None
    asked: Count | None = None
    level: Annotated[float, Field(gt=0)] | None = None
    stayed: Count | None = None
    too_few: list[Count] | None = None
    front: list[Key] | None = None
    population: SomeKeys | None = None
    populations: Annotated[list[SomeKeys], Field(min_length=1)] | None = None
    particles: SomeKeys | None = None
    surrogate: SomeKeys | None = None

    @model_validator(mode="after")
    def _nothing_is_null(self) -> Self:
        if nulls := [name for name in self.model_fields_set if getattr(self, name) is None]:
            raise ValueError(f"{nulls[0]} must not be null")
        return self

    @property
    def keys(self) -> set[str]:
        """The keys of all candidates that the state names."""
        lists = (self.front, self.population, self.particles, self.surrogate, *(self.populations or ()))
        return {key for keys in lists for key in keys or ()}


class StoredConditions(Stored):
    """As `scoring.conditions.Conditions`."""

    order: list[Count]
    known: list[Point]
    judged_by: FitnessName


class StoredBatch(Stored):
    """As `search.loop.GenomeBatch`; conditions: a position in the loop's list of them."""

    generation: Count
    genomes: Annotated[list[Hex], Field(min_length=1)]
    keys: SomeKeys
    conditions: Count


class StoredLoop(Stored):
    """As `search.loop.LoopState`."""

    wrong_share: list[Share]
    conditions: list[StoredConditions]
    under_way: Annotated[list[StoredBatch], Field(max_length=STEADY_STATE_BATCHES)]

    @model_validator(mode="after")
    def _positions_are_there(self) -> Self:
        images = range(len(self.wrong_share))
        if any(sorted(conditions.order) != [*images] for conditions in self.conditions):
            raise ValueError(f"order must have each of the {len(images)} images once")
        for batch in self.under_way:
            if len(batch.genomes) != len(batch.keys):
                raise ValueError("a batch under way must have as many keys as genomes")
            if batch.conditions >= len(self.conditions):
                raise ValueError(f"conditions {batch.conditions} of a batch under way are not there")
        return self


class StoredSnapshot(Stored):
    """A snapshot. fingerprint: what the search was made under, by key."""

    layout: int
    version: str | None = None
    generation: Count
    fingerprint: dict[str, Any]
    algorithm: StoredAlgorithm
    loop: StoredLoop

    @model_validator(mode="after")
    def _batches_are_of_the_next_generation(self) -> Self:
        if any(batch.generation != self.generation + 1 for batch in self.loop.under_way):
            raise ValueError("a batch under way must be of the next generation")
        return self
