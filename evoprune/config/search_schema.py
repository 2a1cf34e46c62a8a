"""The sections of an experiment that say what may be removed and how it is searched for."""

from typing import Annotated, Any, Self

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from evoprune.config.choices import (
    AlgorithmChoice,
    Compensation,
    CostChoice,
    CriterionChoice,
    FitnessChoice,
    FitnessName,
    MetricName,
    RoundSection,
    Scope,
    StrideSharing,
)
from evoprune.config.fields import Mark, Section, choice, flag, fraction, plugin, value, whole
from evoprune.config.schedules import Schedule

MOST_MAPS = 65_536
MOST_ROUNDS = 100


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

    algorithm: AlgorithmChoice = plugin(
        "widths",
        "widths: evolves the number of maps per group and refines single maps; nsga2: evolves the front of MCR and "
        "cost over single maps; genetic: the same with one objective; particle_filter, random: as by Anwar and Sung; "
        "ranking: no search, the criterion decides at each target, or as far as the tolerance allows; "
        "module:attribute: an ep.Algorithm of your own",
        AlgorithmChoice,
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
    cost: CostChoice = plugin(
        "macs",
        "cost that is minimised; latency_ms: latency of one image, predicted from layers that are timed on this "
        "machine; module:attribute: an ep.CostModel of your own",
        CostChoice,
        marks=(Mark.SAME_IN_STUDY,),
    )
    metric: MetricName = choice(
        "mcr",
        "error rate of tolerance and fitness; mcr: mean over images; balanced: mean over classes of the mean of each, "
        "so that rare classes count as much as frequent ones",
        MetricName,
        marks=(Mark.SAME_IN_STUDY,),
    )
    fitness: FitnessChoice = choice(
        "auto",
        "measure on the validation images that compares candidates of the same cost; errors: number of misclassified "
        "images; divergence: Kullback-Leibler divergence from the outputs of the unpruned network, which needs fewer "
        "images; auto: divergence with a target_cost, errors without one",
        FitnessChoice,
    )
    criterion: CriterionChoice = plugin(
        "auto",
        "importance criterion, by which the first candidates and mutations prefer parts to keep; those that need "
        "images use the calibration images and their labels; elimination: the error that compensation leaves; oracle: "
        "the change of the loss when a map is removed; auto: elimination, or l1 if elimination cannot be computed; "
        "module:attribute: a function or an ep.Criterion of your own",
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
