"""The experiment's schema: a frozen object whose every value is valid. `config_loading` makes it from YAML.

Every field carries its description, unit and rule; the rule is what a complaint about it says.
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
"""Which workers score, and how long one may take, makes no difference to the results."""


class DataConfig(Section):
    """Which images, and how they are split."""

    dataset: str = value(
        "mnist5k",
        "data set: mnist5k, fashion-mnist, mnist, cifar10, cifar100, svhn, imagefolder or module:callable",
        "the name of a data set",
        min_length=1,
    )
    root: str | None = value(
        None,
        "folder of the data set's files; null: the place usual for it",
        "a folder, or null",
        min_length=1,
        marks=(Mark.NOT_COMPARED,),
    )
    validation: int = whole(1000, "images the search scores on, held out of training", "images", most=MOST_IMAGES)
    calibration: int = whole(
        256,
        "training images that batch-norm statistics, compensation and criteria are computed on",
        "images",
        least=2,
        most=MOST_IMAGES,
    )
    augment: tuple[Augmentation, ...] = value(
        (),
        "what training images go through: crop (padded by 4 pixels), flip (left to right)",
        "a list out of crop, flip",
    )
    image_size: int | None = whole(
        None, "side that images of an imagefolder are brought to; null: as they are", "pixels", most=10_000
    )


class ModelConfig(Section):
    """Which network, and where its weights come from."""

    network: str = value(
        "16C5-MP2-32C5-MP2-64FC-10",
        "layer string, name of the zoo, torchvision:NAME or module:callable",
        "a layer string such as 16C5-MP2-32C5-MP2-64FC-10, or a network's name",
        min_length=1,
    )
    weights: str | None = value(
        None,
        "safetensors or state dict file, or pretrained (torchvision:NAME); null: train",
        "a file, pretrained, or null",
        min_length=1,
    )


class TrainConfig(Section):
    """How the baseline is trained where no weights are given."""

    epochs: int = whole(5, "passes over the training split", "epochs", most=MOST_EPOCHS)
    batch_size: int = whole(64, "images a step", "images", most=MOST_BATCH)
    learning_rate: float = positive(0.05, "highest learning rate of the schedule", most=MOST_RATE)
    momentum: float = value(0.9, "Nesterov momentum", "at least 0 and below 1", ge=0, lt=1)
    weight_decay: float = value(
        5e-4, "L2 penalty on the weights", f"a number from 0 to {MOST_DECAY}", ge=0, le=MOST_DECAY
    )
    precision: Precision = choice(
        "float32",
        "what products are computed in; bfloat16 is faster where the processor has it, weights stay float32",
        Precision,
    )


class SpaceConfig(Section):
    """What may be removed."""

    feature_maps: bool = flag(True, "search over feature maps (and hidden linear units)")
    kernels: bool = flag(False, "search over kernels")
    strides: bool = flag(False, "search over kernel-stride masks")
    keep_first_conv: bool = flag(False, "the first convolution stays whole, as in the papers")
    keep: tuple[str, ...] = value(
        (), "layers that stay whole: name patterns such as layer4.*", "a list of layer-name patterns"
    )
    min_maps: int = whole(1, "least feature maps that stay in a group", "feature maps", most=MOST_MAPS)
    round_to: int = whole(1, "widths are multiples of this", "feature maps", most=MOST_MAPS)
    kernel_block: int = whole(
        1, "output maps whose kernels from one input map share a gene", "feature maps", most=MOST_MAPS
    )
    stride_sharing: StrideSharing = choice(
        "input_map",
        "which kernels share a mask: all that leave one input map (Anwar's constraint), all of a layer, none",
        StrideSharing,
    )
    strides_allowed: tuple[tuple[int, int], ...] | None = value(
        None,
        "masks to choose from besides the dense one, as (start, stride); null: all that the kernel has",
        "a list of [start, stride] pairs, or null",
    )

    @model_validator(mode="after")
    def _strides_begin_below_themselves(self) -> Self:
        for start, stride in self.strides_allowed or ():
            if not 0 <= start < stride:
                raise PydanticCustomError(
                    "stride_start",
                    "must have strides_allowed with a start at least 0 and below its stride, not [{start}, {stride}]",
                    {"start": start, "stride": stride},
                )
        return self

    @model_validator(mode="after")
    def _something_to_search(self) -> Self:
        if not (self.feature_maps or self.kernels or self.strides):
            raise PydanticCustomError(
                "nothing_to_search",
                "must have feature_maps, kernels or strides true, not all three false: nothing to search",
            )
        return self


class SearchConfig(Section):
    """How candidates are bred and judged."""

    algorithm: Algorithm = choice(
        "widths",
        "widths: evolves how many maps each group keeps, and refines single ones; nsga2: the front of MCR against "
        "cost, on single maps; genetic: one objective; particle_filter, random: as Anwar and Sung; ranking: no search, "
        "the criterion alone decides, at each target or as far as the tolerance allows",
        Algorithm,
    )
    population: int = whole(24, "candidates a generation", "candidates", least=4, most=100_000)
    generations: int = whole(
        8, "generations bred after the first population", "generations", most=100_000, marks=(Mark.MAY_CHANGE,)
    )
    tolerance: float = fraction(
        0.02,
        "absolute rise in MCR over the baseline that a candidate may have",
        "0.02 is two percentage points",
        marks=(Mark.SAME_IN_STUDY,),
    )
    target_cost: (
        Annotated[float, Field(gt=0, le=1)]
        | Annotated[tuple[Annotated[float, Field(gt=0, le=1)], ...], Field(min_length=1, max_length=100)]
        | None
    ) = value(
        None,
        "share of the whole network's cost at which the lowest MCR is sought, or several; the tolerance then says "
        "nothing; null: the lowest cost within the tolerance",
        "a share above 0 and at most 1 (0.25 is a quarter), a list of some, or null",
        "fraction",
        marks=(Mark.SAME_IN_STUDY,),
    )
    cost: CostName = choice(
        "macs",
        "cost that is minimised besides the MCR; latency_ms: of one image, predicted from layers timed on this machine",
        CostName,
        marks=(Mark.SAME_IN_STUDY,),
    )
    fitness: FitnessChoice = choice(
        "auto",
        "what candidates of the same cost are compared by, on the validation images: errors: misclassified ones; "
        "divergence: how far outputs are from the unpruned network's (Kullback-Leibler), of which few images say more; "
        "auto: divergence at a target_cost, errors without one, as the tolerance is one of errors",
        FitnessChoice,
    )
    criterion: CriterionChoice = choice(
        "auto",
        "which parts are more important: first candidates and mutations rather keep them; what is computed on examples "
        "takes the calibration images with their labels; elimination: what compensation cannot make up for; oracle: "
        "the change of the loss without each map; auto: elimination, or l1 where that says nothing",
        CriterionChoice,
    )
    scope: Scope = choice(
        "local",
        "how the algorithm ranking compares feature maps: local: the same share of every group stays; global: all "
        "groups are ranked together",
        Scope,
    )
    compensation: Compensation = choice(
        "gram", "how the weights that stay take over what was removed", Compensation, marks=(Mark.SAME_IN_STUDY,)
    )
    stop_dominated: bool = flag(
        True,
        "stop scoring what a known candidate of no higher cost beats already: it cannot get on the front",
    )
    steady_state: bool = flag(
        False, "breed the next candidates before a generation is complete, so that no worker waits for its end"
    )
    crossover_rate: float = fraction(0.9, "share of pairs of parents that are crossed", "0.9 is nine in ten")
    mutation_rate: float = fraction(
        0.02, "chance that a feature-map gene of a child changes", "0.02 is one gene in fifty"
    )
    kernel_mutation_rate: float = fraction(
        0.02, "chance that a kernel gene of a child changes", "0.02 is one gene in fifty"
    )
    stride_mutation_rate: float = fraction(
        0.05, "chance that a stride gene of a child changes", "0.05 is one gene in twenty"
    )
    refinement: float = fraction(
        0.33,
        "share of children of the algorithm widths whose single maps are varied instead of their widths; with "
        "space.kernels or space.strides at least half, whose kernels and strides are varied, too",
        "0.33 is one child in three",
    )
    litter: int = whole(
        16,
        "children of other widths that the algorithm widths breeds for a target to score one, the one of which a "
        "Gaussian process over the widths scored so far promises most; 1: no choice among children",
        "children",
        most=1000,
    )
    rounds: tuple[dict[RoundSection, dict[str, Any]], ...] = value(
        (),
        "prune, train, repeat: each round's keys of space, search and retrain that differ from those at top level; "
        "a round starts from the cheapest survivor of the one before, and only the last may have kernels or strides; "
        "target_cost stays a share of the unpruned network's",
        f"a list of at most {MOST_ROUNDS} rounds, each with some keys of the sections space, search and retrain",
        max_length=MOST_ROUNDS,
        marks=(Mark.OUTSIDE_SEARCH,),
    )
    schedule: Schedule = choice(
        "one_shot",
        "how target_cost is reached: one_shot: at once; linear (the same amount at every step), exponential (the same "
        "share of what is left), cubic (much at first, little at last): in search.steps rounds, each retrained",
        Schedule,
    )
    steps: int = whole(1, "rounds in which search.schedule reaches target_cost", "rounds", most=MOST_ROUNDS)

    @model_validator(mode="after")
    def _particles_are_weighed_by_generation(self) -> Self:
        if self.steady_state and self.algorithm == "particle_filter":
            raise PydanticCustomError(
                "steady_particles",
                "must have steady_state false with particle_filter, which weighs the particles of whole generations",
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
                "must have one target_cost and no rounds of your own with schedule {schedule}, whose rounds lead there",
                {"schedule": schedule},
            )
        return self

    @property
    def in_rounds(self) -> bool:
        """Whether a run has rounds: those listed, or a schedule's steps."""
        return bool(self.rounds) or self.steps > 1

    @property
    def allowed_rise(self) -> float:
        """The absolute rise in MCR that candidates may have: the tolerance; any, where targets say what they cost."""
        return 1.0 if self.targets else self.tolerance

    @property
    def judged_by(self) -> FitnessName:
        """What candidates of the same cost are compared by."""
        if self.fitness != "auto":
            return self.fitness
        return "divergence" if self.targets else "errors"

    @property
    def targets(self) -> tuple[float, ...]:
        """The target costs as shares of the whole network's, each once, the highest first."""
        given = self.target_cost or ()
        return tuple(sorted({*(given if isinstance(given, tuple) else (given,))}, reverse=True))


class WorkersConfig(Section):
    """Who scores the candidates."""

    backend: Backend = choice(
        "ray", "ray: one actor a worker; serial: this process alone, no Ray", Backend, marks=WORKERS
    )
    count: Annotated[int, Field(ge=1, le=10_000)] | Literal["auto"] = value(
        "auto",
        "workers; auto: one a core or GPU",
        "a whole number from 1 to 10,000, or auto",
        "workers",
        marks=WORKERS,
    )
    address: str | None = value(
        None,
        "Ray cluster to join; null: start one here",
        "a cluster's address such as auto or host:6379, or null",
        min_length=1,
        marks=WORKERS,
    )
    threads: int = whole(1, "threads a worker computes with", "threads", most=1024)
    memory: Annotated[float, Field(gt=0, le=MOST_GIB)] | Literal["auto"] = value(
        "auto",
        "what a worker may take: larger networks are scored in smaller batches; auto: a share of the machine's",
        f"a number above 0 and at most {MOST_GIB:,} (GiB), or auto",
        "GiB",
        marks=(Mark.MAY_CHANGE,),
    )
    gram_memory: Annotated[float, Field(gt=0, le=MOST_GIB)] | Literal["auto"] = value(
        "auto",
        "what the statistics for compensation may take, which all workers of a machine share; layers beyond it stay "
        "uncompensated; auto: a share of the machine's",
        f"a number above 0 and at most {MOST_GIB:,} (GiB), or auto",
        "GiB",
    )
    timeout_s: Annotated[float, Field(gt=0, le=MOST_SECONDS)] | None = value(
        None,
        "how long scoring a candidate may take before its worker is ended and it is tried again, three times in all "
        "(backend ray); null: as long as it likes",
        f"a number above 0 and at most {MOST_SECONDS:,} (seconds), or null",
        "seconds",
        marks=WORKERS,
    )
    epoch_timeout_s: Annotated[float, Field(gt=0, le=MOST_SECONDS)] | None = value(
        None,
        "the same for an epoch of retraining a survivor",
        f"a number above 0 and at most {MOST_SECONDS:,} (seconds), or null",
        "seconds",
        marks=WORKERS,
    )


class RetrainConfig(Section):
    """How survivors are chosen and retrained."""

    survivors: int = whole(3, "survivors that are retrained and kept, from the front", "survivors", most=10_000)
    epochs: int = whole(2, "passes over the training split; 0: no retraining", "epochs", least=0, most=MOST_EPOCHS)
    learning_rate: float = positive(0.02, "highest learning rate of the schedule", most=MOST_RATE)
    batch_size: int = whole(64, "images a step", "images", most=MOST_BATCH)
    momentum: float = value(0.9, "Nesterov momentum", "at least 0 and below 1", ge=0, lt=1)
    weight_decay: float = value(
        5e-4, "L2 penalty on the weights", f"a number from 0 to {MOST_DECAY}", ge=0, le=MOST_DECAY
    )
    precision: Precision = choice(
        "float32",
        "what products are computed in; bfloat16 is faster where the processor has it, weights stay float32",
        Precision,
    )
    distillation: float = fraction(
        0.5,
        "weight of the distillation loss, with the unpruned baseline as the teacher, against the labels' loss; 0: none",
        "0.9 is nine parts of ten",
    )
    temperature: float = positive(4.0, "temperature of the distillation's softened outputs", most=1000)
    start: RetrainStart = choice(
        "keep",
        "what survivors are retrained from: keep: the weights that search and compensation left; rewind_weights: those "
        "the baseline had retrain.epochs before the end of its training, on that training's schedule from there; "
        "rewind_learning_rate: the trained baseline's, likewise; anew: fresh ones",
        RetrainStart,
    )
    compensation: SurvivorCompensation = choice(
        "sequential",
        "how survivors begin that keep their weights: sequential: each layer solved on the pruned network's own "
        "activations, where that makes fewer errors; search: as the search scored them",
        SurvivorCompensation,
    )


class RecordConfig(Section):
    """What is written besides tables and networks."""

    report: bool = flag(True, "at the end, draw the pictures (plots/) and write report.html")
    tensorboard: bool = flag(False, "write scalars for TensorBoard (tensorboard/); needs evoprune's extra tensorboard")


class Config(Section):
    """One experiment."""

    name: str = value(
        ...,
        "name of the run: its folder below results/",
        "a folder's name (letters, digits, '.', '_' and '-', first a letter or digit)",
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$",
        marks=(Mark.NOT_COMPARED, Mark.OUTSIDE_SEARCH),
    )
    seed: int = value(
        0,
        "seed of every random draw",
        "a whole number from 0 to 4294967295",
        marks=(Mark.NOT_COMPARED,),
        ge=0,
        le=2**32 - 1,
    )
    device: str = value(
        "auto",
        "where networks are computed; auto: the first GPU if there is one",
        "auto, cpu, cuda or cuda:N",
        pattern=r"^(auto|cpu|cuda(:[0-9]{1,3})?)$",
        marks=(Mark.MAY_CHANGE, Mark.NOT_COMPARED, Mark.SAME_IN_SWEEP),
    )
    data: DataConfig = section(DataConfig(), "images and their splits")
    model: ModelConfig = section(ModelConfig(), "network and weights")
    train: TrainConfig = section(TrainConfig(), "training of the baseline")
    space: SpaceConfig = section(SpaceConfig(), "what may be removed")
    search: SearchConfig = section(SearchConfig(), "search over candidates")
    workers: WorkersConfig = section(
        WorkersConfig(), "scoring of candidates", marks=(Mark.NOT_COMPARED, Mark.SAME_IN_SWEEP)
    )
    retrain: RetrainConfig = section(RetrainConfig(), "retraining of survivors", marks=(Mark.MAY_CHANGE,))
    record: RecordConfig = section(
        RecordConfig(),
        "what is written besides tables and networks",
        marks=(Mark.MAY_CHANGE, Mark.NO_RESULT, Mark.NOT_COMPARED),
    )

    @property
    def rewind_epoch(self) -> int:
        """The epoch of the baseline's training from whose end on rewound survivors are retrained; 0: its beginning."""
        return self.train.epochs - self.retrain.epochs

    @model_validator(mode="after")
    def _a_ranking_is_of_feature_maps(self) -> Self:
        if self.search.algorithm == "ranking" and (self.space.kernels or self.space.strides):
            raise PydanticCustomError(
                "ranking_masks",
                "search.algorithm must not be ranking with space.kernels or space.strides, for it ranks feature maps "
                "alone; take widths, or leave those false",
            )
        return self

    @model_validator(mode="after")
    def _there_is_something_to_rewind_to(self) -> Self:
        start = self.retrain.start
        if start.startswith("rewind") and self.rewind_epoch < 0:
            raise PydanticCustomError(
                "rewind_epochs",
                "retrain.epochs must be at most train.epochs ({most}) where retrain.start is {start}, not {epochs}",
                {"most": self.train.epochs, "start": start, "epochs": self.retrain.epochs},
            )
        if start == "rewind_weights" and self.model.weights is not None:
            raise PydanticCustomError(
                "rewind_given",
                "model.weights must be null where retrain.start is rewind_weights (an early epoch's are kept while "
                "the network is trained), not {weights}; take rewind_learning_rate for weights that are given",
                {"weights": self.model.weights},
            )
        return self
