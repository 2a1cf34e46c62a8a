"""The schema of an experiment: frozen sections whose values are valid. `config.loading` makes them from YAML.

Each field carries its description, its unit, the rule that error messages give, and its marks.
"""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from evoprune.config.fields import Mark, Section, choice, flag, fraction, positive, section, value, whole
from evoprune.config.schedules import Schedule

Algorithm = Literal["widths", "nsga2", "genetic", "particle_filter", "random", "ranking"]
Augmentation = Literal["crop", "flip"]
Backend = Literal["ray", "serial"]
Compensation = Literal["gram", "none"]
SurvivorCompensation = Literal["sequential", "search"]
RetrainStart = Literal["keep", "rewind_weights", "rewind_learning_rate", "anew"]
CostName = Literal["macs", "params", "bytes", "latency_ms"]
CriterionName = Literal[
    "elimination",
    "l1",
    "l2",
    "mean_activation",
    "zeros",
    "batch_norm_scale",
    "taylor",
    "oracle",
    "obd",
    "synflow",
    "random",
]
CriterionChoice = Literal["auto", CriterionName]
FitnessName = Literal["errors", "divergence"]
FitnessChoice = Literal["auto", FitnessName]
Scope = Literal["local", "global"]
RoundSection = Literal["space", "search", "retrain"]
StrideSharing = Literal["input_map", "layer", "kernel"]
Precision = Literal["float32", "bfloat16"]

MOST_CHARACTERS = 1000
MOST_EPOCHS = 10_000
MOST_IMAGES = 10_000_000
MOST_BATCH = 65_536
MOST_MAPS = 65_536
MOST_RATE = 1000
MOST_DECAY = 100
MOST_ROUNDS = 100
MOST_GIB = 1_000_000
MOST_SECONDS = 10_000_000

WORKERS = (Mark.MAY_CHANGE, Mark.NO_RESULT)
"""Marks of keys that choose the workers: results do not depend on who scores, or on time limits."""


class DataConfig(Section):
    """The images and their splits."""

    dataset: str = value(
        "mnist5k",
        "mnist5k, fashion-mnist, mnist, cifar10, cifar100, svhn, imagefolder, or module:callable for data of your own",
        "the name of a data set",
        min_length=1,
        max_length=MOST_CHARACTERS,
    )
    root: str | None = value(
        None,
        "folder of the files of the data set; null: its default folder",
        "a folder, or null",
        min_length=1,
        max_length=MOST_CHARACTERS,
        marks=(Mark.NOT_COMPARED,),
    )
    validation: int = whole(
        1000,
        "number of images on which candidates are scored, held out of the training images",
        "images",
        most=MOST_IMAGES,
    )
    calibration: int = whole(
        256,
        "number of training images from which batch-norm statistics, compensation and criteria are computed",
        "images",
        least=2,
        most=MOST_IMAGES,
    )
    augment: tuple[Augmentation, ...] = value(
        (),
        "augmentation of the training images; crop: random crops after padding by an eighth of the height (2 pixels "
        "at 28, 4 at 32); flip: left to right",
        "a list of any of crop, flip",
    )
    image_size: int | None = whole(
        None, "height and width to which images of an imagefolder are resized; null: not resized", "pixels", most=10_000
    )


class ModelConfig(Section):
    """The network and its weights."""

    network: str = value(
        "16C5-MP2-32C5-MP2-64FC-10",
        "layer string, name of a built-in network, torchvision:NAME, or module:callable for a network of your own",
        "a layer string such as 16C5-MP2-32C5-MP2-64FC-10, or a network's name",
        min_length=1,
        max_length=MOST_CHARACTERS,
    )
    weights: str | None = value(
        None,
        "file with trained weights (safetensors or a state dict), or pretrained for torchvision:NAME; null: the "
        "network is trained",
        "a file, pretrained, or null",
        min_length=1,
        max_length=MOST_CHARACTERS,
    )


class TrainConfig(Section):
    """Training of the baseline if model.weights is null."""

    epochs: int = whole(5, "number of passes over the training images", "epochs", most=MOST_EPOCHS)
    batch_size: int = whole(64, "number of images per step", "images", most=MOST_BATCH)
    learning_rate: float = positive(0.05, "peak learning rate", most=MOST_RATE)
    momentum: float = value(0.9, "Nesterov momentum", "at least 0 and below 1", ge=0, lt=1)
    weight_decay: float = value(
        5e-4, "L2 penalty on the weights", f"a number from 0 to {MOST_DECAY}", ge=0, le=MOST_DECAY
    )
    precision: Precision = choice(
        "float32",
        "number format of products; bfloat16 is faster on processors that have it; weights stay float32",
        Precision,
    )


class SpaceConfig(Section):
    """The parts that may be removed."""

    feature_maps: bool = flag(True, "search over feature maps, and over the units of hidden linear layers")
    kernels: bool = flag(False, "search over kernels")
    strides: bool = flag(False, "search over kernel-stride masks")
    keep_first_conv: bool = flag(False, "keep the first convolution whole, as in the papers")
    keep: tuple[str, ...] = value(
        (), "layers to keep whole, as name patterns such as layer4.*", "a list of layer-name patterns", max_length=1000
    )
    min_maps: int = whole(1, "minimum number of feature maps that stay in a group", "feature maps", most=MOST_MAPS)
    round_to: int = whole(1, "keep widths at multiples of this number", "feature maps", most=MOST_MAPS)
    kernel_block: int = whole(
        1, "number of output maps whose kernels from one input map share a gene", "feature maps", most=MOST_MAPS
    )
    stride_sharing: StrideSharing = choice(
        "input_map",
        "which kernels share a mask; input_map: all that read the same input map (constraint of Anwar et al.); layer: "
        "all of a layer; kernel: none",
        StrideSharing,
    )
    strides_allowed: tuple[tuple[int, int], ...] | None = value(
        None,
        "masks allowed besides the dense one, as (start, stride); null: all that fit the kernel",
        "a list of [start, stride] pairs, or null",
        max_length=1000,
    )

    @model_validator(mode="after")
    def _strides_begin_below_themselves(self) -> Self:
        for start, stride in self.strides_allowed or ():
            if not 0 <= start < stride:
                raise PydanticCustomError(
                    "stride_start",
                    "must have strides_allowed with 0 <= start < stride, not [{start}, {stride}]",
                    {"start": start, "stride": stride},
                )
        return self

    @model_validator(mode="after")
    def _something_to_search(self) -> Self:
        if not (self.feature_maps or self.kernels or self.strides):
            raise PydanticCustomError(
                "nothing_to_search",
                "must have at least one of feature_maps, kernels and strides true: there is nothing to search",
            )
        return self


class SearchConfig(Section):
    """The search over candidates."""

    algorithm: Algorithm = choice(
        "widths",
        "widths: evolves the number of maps per group and refines single maps; nsga2: evolves the front of MCR and "
        "cost over single maps; genetic: the same with one objective; particle_filter, random: as by Anwar and Sung; "
        "ranking: no search, the criterion decides at each target, or as far as the tolerance allows",
        Algorithm,
    )
    population: int = whole(24, "number of candidates per generation", "candidates", least=4, most=100_000)
    generations: int = whole(
        8, "number of generations after the first population", "generations", most=100_000, marks=(Mark.MAY_CHANGE,)
    )
    tolerance: float = fraction(
        0.02,
        "maximum rise of a candidate's MCR above that of the baseline",
        "0.02 is two percentage points",
        marks=(Mark.SAME_IN_STUDY,),
    )
    target_cost: (
        Annotated[float, Field(gt=0, le=1)]
        | Annotated[tuple[Annotated[float, Field(gt=0, le=1)], ...], Field(min_length=1, max_length=100)]
        | None
    ) = value(
        None,
        "cost, as a share of the unpruned network's, at which the MCR is minimised (the tolerance is then ignored); "
        "may be a list; null: the cost is minimised within the tolerance",
        "a share above 0 and at most 1 (0.25 is a quarter), a list of shares, or null",
        "fraction",
        marks=(Mark.SAME_IN_STUDY,),
    )
    cost: CostName = choice(
        "macs",
        "cost that is minimised; latency_ms: latency of one image, predicted from layers that are timed on this "
        "machine",
        CostName,
        marks=(Mark.SAME_IN_STUDY,),
    )
    fitness: FitnessChoice = choice(
        "auto",
        "measure on the validation images that compares candidates of the same cost; errors: number of misclassified "
        "images; divergence: Kullback-Leibler divergence from the outputs of the unpruned network, which needs fewer "
        "images; auto: divergence with a target_cost, errors without one",
        FitnessChoice,
    )
    criterion: CriterionChoice = choice(
        "auto",
        "importance criterion, by which the first candidates and mutations prefer parts to keep; those that need "
        "images use the calibration images and their labels; elimination: the error that compensation leaves; oracle: "
        "the change of the loss when a map is removed; auto: elimination, or l1 if elimination cannot be computed",
        CriterionChoice,
    )
    scope: Scope = choice(
        "local",
        "scope of the algorithm ranking; local: each group keeps the same share of its maps; global: the maps of all "
        "groups are ranked together",
        Scope,
    )
    compensation: Compensation = choice(
        "gram",
        "update of the remaining weights after removal; gram: in closed form from Gram matrices of the inputs",
        Compensation,
        marks=(Mark.SAME_IN_STUDY,),
    )
    stop_dominated: bool = flag(
        True,
        "stop scoring a candidate as soon as a known one of no higher cost is better, so that it cannot reach the "
        "front",
    )
    steady_state: bool = flag(False, "create new candidates before a generation is complete, so that no worker is idle")
    crossover_rate: float = fraction(
        0.9, "share of pairs of parents to which crossover is applied", "0.9 is nine in ten"
    )
    mutation_rate: float = fraction(
        0.02, "probability that a feature-map gene of a child is mutated", "0.02 is one gene in fifty"
    )
    kernel_mutation_rate: float = fraction(
        0.02, "probability that a kernel gene of a child is mutated", "0.02 is one gene in fifty"
    )
    stride_mutation_rate: float = fraction(
        0.05, "probability that a stride gene of a child is mutated", "0.05 is one gene in twenty"
    )
    refinement: float = fraction(
        0.33,
        "for the algorithm widths: share of children whose single maps are varied instead of their widths; with "
        "space.kernels or space.strides it is at least one half, and kernels and strides are varied too",
        "0.33 is one child in three",
    )
    litter: int = whole(
        16,
        "for the algorithm widths with a target_cost: number of children created for each one that is scored, the "
        "best by the prediction of a Gaussian process fitted to the scored widths; 1: no pre-selection",
        "children",
        most=1000,
    )
    rounds: tuple[dict[RoundSection, dict[str, Any]], ...] = value(
        (),
        "repeated pruning and retraining: for each round, the keys of space, search and retrain that differ from the "
        "top level; a round starts from the cheapest survivor of the round before, only the last round may have "
        "kernels or strides, and target_cost is always a share of the unpruned network's cost",
        f"a list of at most {MOST_ROUNDS} rounds, each with some keys of the sections space, search and retrain",
        max_length=MOST_ROUNDS,
        marks=(Mark.OUTSIDE_SEARCH,),
    )
    schedule: Schedule = choice(
        "one_shot",
        "way to target_cost; one_shot: at once; linear (equal amounts), exponential (equal shares of what is left) and "
        "cubic (large steps first): in search.steps rounds, each with retraining",
        Schedule,
    )
    steps: int = whole(1, "number of rounds in which search.schedule reaches target_cost", "rounds", most=MOST_ROUNDS)

    @model_validator(mode="after")
    def _particles_are_weighed_by_generation(self) -> Self:
        if self.steady_state and self.algorithm == "particle_filter":
            raise PydanticCustomError(
                "steady_particles",
                "must have steady_state false with particle_filter, which weights the particles of a whole generation",
            )
        return self

    @model_validator(mode="after")
    def _steps_lead_to_one_target(self) -> Self:
        schedule, steps = self.schedule, self.steps
        if (schedule == "one_shot") != (steps == 1):
            raise PydanticCustomError(
                "schedule_steps",
                "must have steps 1 with schedule one_shot, and 2 or more with any other, not {schedule} with {steps}",
                {"schedule": schedule, "steps": steps},
            )
        if steps > 1 and (len(self.targets) != 1 or self.rounds):
            raise PydanticCustomError(
                "schedule_target",
                "must have exactly one target_cost and no rounds with schedule {schedule}, which makes its own rounds",
                {"schedule": schedule},
            )
        return self

    @property
    def in_rounds(self) -> bool:
        """Whether a run has rounds, either listed or from a schedule."""
        return bool(self.rounds) or self.steps > 1

    @property
    def allowed_rise(self) -> float:
        """The maximum rise of a candidate's MCR: the tolerance, or 1 with a target cost."""
        return 1.0 if self.targets else self.tolerance

    @property
    def judged_by(self) -> FitnessName:
        """The measure that compares candidates of the same cost."""
        if self.fitness != "auto":
            return self.fitness
        return "divergence" if self.targets else "errors"

    @property
    def targets(self) -> tuple[float, ...]:
        """The distinct target costs as shares of the unpruned network's cost, highest first."""
        given = self.target_cost or ()
        return tuple(sorted({*(given if isinstance(given, tuple) else (given,))}, reverse=True))


class WorkersConfig(Section):
    """The workers that score and retrain."""

    backend: Backend = choice(
        "ray", "ray: one actor per worker; serial: in this process, without Ray", Backend, marks=WORKERS
    )
    count: Annotated[int, Field(ge=1, le=10_000)] | Literal["auto"] = value(
        "auto",
        "number of workers; auto: one per core or GPU",
        "a whole number from 1 to 10,000, or auto",
        "workers",
        marks=WORKERS,
    )
    address: str | None = value(
        None,
        "address of the Ray cluster to join; null: a local one is started",
        "the address of a cluster, such as auto or host:6379, or null",
        min_length=1,
        max_length=MOST_CHARACTERS,
        marks=WORKERS,
    )
    threads: int = whole(1, "number of threads per worker", "threads", most=1024)
    memory: Annotated[float, Field(gt=0, le=MOST_GIB)] | Literal["auto"] = value(
        "auto",
        "memory per worker; larger networks are scored in smaller batches; auto: a share of the machine's memory",
        f"a number above 0 and at most {MOST_GIB:,} (GiB), or auto",
        "GiB",
        marks=(Mark.MAY_CHANGE,),
    )
    gram_memory: Annotated[float, Field(gt=0, le=MOST_GIB)] | Literal["auto"] = value(
        "auto",
        "memory for the compensation statistics, which the workers of a machine share; layers that do not fit are not "
        "compensated; auto: a share of the machine's memory",
        f"a number above 0 and at most {MOST_GIB:,} (GiB), or auto",
        "GiB",
    )
    timeout_s: Annotated[float, Field(gt=0, le=MOST_SECONDS)] | None = value(
        None,
        "time limit for scoring a candidate, after which its worker is ended and the candidate is tried again, up to "
        "three times in all (backend ray); null: no limit",
        f"a number above 0 and at most {MOST_SECONDS:,} (seconds), or null",
        "seconds",
        marks=WORKERS,
    )
    epoch_timeout_s: Annotated[float, Field(gt=0, le=MOST_SECONDS)] | None = value(
        None,
        "time limit for an epoch of retraining, in the same way",
        f"a number above 0 and at most {MOST_SECONDS:,} (seconds), or null",
        "seconds",
        marks=WORKERS,
    )


class RetrainConfig(Section):
    """Choice and retraining of survivors."""

    survivors: int = whole(3, "number of survivors chosen from the front and retrained", "survivors", most=10_000)
    epochs: int = whole(
        2, "number of passes over the training images; 0: no retraining", "epochs", least=0, most=MOST_EPOCHS
    )
    learning_rate: float = positive(0.02, "peak learning rate", most=MOST_RATE)
    batch_size: int = whole(64, "number of images per step", "images", most=MOST_BATCH)
    momentum: float = value(0.9, "Nesterov momentum", "at least 0 and below 1", ge=0, lt=1)
    weight_decay: float = value(
        5e-4, "L2 penalty on the weights", f"a number from 0 to {MOST_DECAY}", ge=0, le=MOST_DECAY
    )
    precision: Precision = choice(
        "float32",
        "number format of products; bfloat16 is faster on processors that have it; weights stay float32",
        Precision,
    )
    distillation: float = fraction(
        0.5,
        "share of the distillation loss, with the unpruned baseline as teacher; the rest is the loss on labels; 0: no "
        "distillation",
        "0.9 is nine tenths",
    )
    temperature: float = positive(4.0, "temperature of the softened outputs in distillation", most=1000)
    start: RetrainStart = choice(
        "keep",
        "weights at the start of retraining; keep: those after search and compensation; rewind_weights: those of the "
        "baseline retrain.epochs before the end of its training, with the learning rates of those epochs; "
        "rewind_learning_rate: those of the trained baseline, with the same learning rates; anew: fresh random weights",
        RetrainStart,
    )
    compensation: SurvivorCompensation = choice(
        "sequential",
        "compensation before retraining with start keep; sequential: layer by layer on the activations of the pruned "
        "network, if that reduces the errors; search: as in the search",
        SurvivorCompensation,
    )


class RecordConfig(Section):
    """Files besides tables and networks."""

    report: bool = flag(True, "draw plots (plots/) and write report.html at the end")
    tensorboard: bool = flag(False, "write scalars for TensorBoard (tensorboard/); needs the package extra tensorboard")


class Config(Section):
    """One experiment."""

    name: str = value(
        ...,
        "name of the run, and of its folder in results/",
        "up to 100 letters, digits, '.', '_' and '-', with a letter or digit first",
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$",
        marks=(Mark.NOT_COMPARED, Mark.OUTSIDE_SEARCH),
    )
    seed: int = value(
        0,
        "seed of all random numbers",
        "a whole number from 0 to 4294967295",
        marks=(Mark.NOT_COMPARED,),
        ge=0,
        le=2**32 - 1,
    )
    device: str = value(
        "auto",
        "device of the networks; auto: the first GPU, or the CPU",
        "auto, cpu, cuda or cuda:N",
        pattern=r"^(auto|cpu|cuda(:[0-9]{1,3})?)$",
        marks=(Mark.MAY_CHANGE, Mark.NOT_COMPARED, Mark.SAME_IN_SWEEP),
    )
    data: DataConfig = section(DataConfig(), "images and their splits")
    model: ModelConfig = section(ModelConfig(), "network and weights")
    train: TrainConfig = section(TrainConfig(), "training of the baseline")
    space: SpaceConfig = section(SpaceConfig(), "parts that may be removed")
    search: SearchConfig = section(SearchConfig(), "search over candidates")
    workers: WorkersConfig = section(
        WorkersConfig(), "scoring of candidates", marks=(Mark.NOT_COMPARED, Mark.SAME_IN_SWEEP)
    )
    retrain: RetrainConfig = section(RetrainConfig(), "retraining of survivors", marks=(Mark.MAY_CHANGE,))
    record: RecordConfig = section(
        RecordConfig(),
        "files besides tables and networks",
        marks=(Mark.MAY_CHANGE, Mark.NO_RESULT, Mark.NOT_COMPARED),
    )

    @property
    def rewind_epoch(self) -> int:
        """The number of epochs of baseline training after which rewound survivors are retrained."""
        return self.train.epochs - self.retrain.epochs

    @model_validator(mode="after")
    def _a_ranking_is_of_feature_maps(self) -> Self:
        if self.search.algorithm == "ranking" and (self.space.kernels or self.space.strides):
            raise PydanticCustomError(
                "ranking_masks",
                "search.algorithm must not be ranking with space.kernels or space.strides, because it ranks only "
                "feature maps; use widths, or set both to false",
            )
        return self

    @model_validator(mode="after")
    def _there_is_something_to_rewind_to(self) -> Self:
        start = self.retrain.start
        if start.startswith("rewind") and self.rewind_epoch < 0:
            raise PydanticCustomError(
                "rewind_epochs",
                "retrain.epochs must be at most train.epochs ({most}) with retrain.start {start}, not {epochs}",
                {"most": self.train.epochs, "start": start, "epochs": self.retrain.epochs},
            )
        if start == "rewind_weights" and self.model.weights is not None:
            raise PydanticCustomError(
                "rewind_given",
                "model.weights must be null with retrain.start rewind_weights (weights of an early epoch exist only if "
                "the network is trained here), not {weights}; use rewind_learning_rate with given weights",
                {"weights": self.model.weights},
            )
        return self
