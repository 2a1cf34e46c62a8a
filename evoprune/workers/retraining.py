"""Retraining of survivors, one epoch a call, so that it can stop and continue in any process."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from evoprune.config.schema import RetrainConfig, TrainConfig
from evoprune.data.splits import Split
from evoprune.networks.initialisation import initialise
from evoprune.networks.seeding import mixed_seed
from evoprune.networks.weights import load_weights
from evoprune.scoring.losses import errors_on_validation
from evoprune.scoring.scorer import Problem, Scorer
from evoprune.space.plan import Genome
from evoprune.space.tensors import copied, cut_masks
from evoprune.surgery.apply import compact
from evoprune.surgery.sequential import compensate_sequentially
from evoprune.training.distillation import Distillation, Teacher
from evoprune.training.fit import EpochReport, FitState, fit, hold_at_zero
from evoprune.training.recipe import Recipe
from evoprune.training.recipes import SGD, make_recipe


@dataclass(frozen=True, eq=False)
class Retraining:
    """All that retraining depends on besides the genome.

    Attributes:
        config: Section `retrain` of a config.
        split: The training images.
        augment: Names of the augmentations.
        seed: The seed of all random draws.
        train: How the baseline was trained.
        rewound: For `rewind_weights`: the whole network's weights at the epoch that survivors are rewound to.
        zeros_stay: Whether weights of layers that are 0 at the start of an epoch stay 0, as pruned single weights do.
        teacher: The network whose outputs are distilled; None: the problem's.
        make_recipe: Makes the recipe that `config.recipe` names.
    """

    config: RetrainConfig
    split: Split
    augment: tuple[str, ...]
    seed: int
    train: TrainConfig = field(default_factory=TrainConfig)
    rewound: Mapping[str, Tensor] | None = None
    zeros_stay: bool = False
    teacher: nn.Module | None = None
    make_recipe: Callable[[], Recipe] = SGD

    @property
    def last_epoch(self) -> int:
        """The last epoch of the schedule."""
        return self.train.epochs if self.config.start.startswith("rewind") else self.config.epochs

    @property
    def schedule(self) -> TrainConfig:
        """The schedule. Rewound survivors repeat the last `config.epochs` epochs of the baseline's."""
        config = self.config
        if config.start.startswith("rewind"):
            return self.train
        return TrainConfig(
            epochs=config.epochs,
            batch_size=config.batch_size,
            learning_rate=config.learning_rate,
            momentum=config.momentum,
            weight_decay=config.weight_decay,
            precision=config.precision,
        )


class Retrainer:
    """Trains survivors of one problem, an epoch a call."""

    def __init__(self, problem: Problem, retraining: Retraining, device: torch.device):
        self._problem = problem
        self._retraining = retraining
        self._device = device
        self._distillation = self._make_distillation() if retraining.config.distillation else None

    def start(self, genome: Genome) -> FitState:
        """The state of a genome's network before its first epoch, by `retrain.start`.

        - `keep`: the weights that the search scored (compensated, recalibrated), or sequentially compensated ones if
          these are asked for and make fewer errors on the validation set.
        - `rewind_weights`: the baseline's weights at an early epoch, where they stay.
        - `rewind_learning_rate`: the trained baseline's weights, where they stay.
        - `anew`: fresh weights.

        References:
            keep: Han et al., Learning both Weights and Connections for Efficient Neural Networks, 2015.
            rewind_weights: Frankle et al., Linear Mode Connectivity and the Lottery Ticket Hypothesis, 2020.
            rewind_learning_rate: Renda, Frankle and Carbin, Comparing Rewinding and Fine-tuning in Neural Network
                Pruning, 2020, section 2, which has rewind_weights, too.
            anew: Liu et al., Rethinking the Value of Network Pruning, 2019, scratch-E.
        """
        retraining, problem = self._retraining, self._problem
        begun = retraining.last_epoch - retraining.config.epochs
        match retraining.config.start:
            case "keep":
                return FitState.before(self._kept(genome))
            case "rewind_weights":
                whole = copied(problem.model)
                assert retraining.rewound is not None
                load_weights(whole, retraining.rewound, "rewound weights")
                network = compact(whole, problem.space, genome)
            case "rewind_learning_rate":
                network = compact(problem.model, problem.space, genome)
            case "anew":
                network = compact(problem.model, problem.space, genome)
                initialise(network, mixed_seed(retraining.seed, 0, 0))
                for handle in hold_at_zero(network, cut_masks(problem.space, problem.space.check(genome))):
                    handle.remove()
        return FitState(begun, FitState.before(network).tensors)

    def _kept(self, genome: Genome) -> nn.Module:
        as_scored = Scorer(self._problem, self._device).prepare(genome)
        if self._retraining.config.compensation != "sequential":
            return as_scored
        return self._better(as_scored, genome)

    def _better(self, as_scored: nn.Module, genome: Genome) -> nn.Module:
        """The network or its sequentially compensated copy, whichever makes fewer errors."""
        problem, device = self._problem, self._device
        solved = copied(as_scored).to(memory_format=torch.contiguous_format)
        calibration, whole = problem.calibration.to(device), copied(problem.model).to(device).eval()
        compensate_sequentially(solved, whole, problem.space, problem.space.check(genome), calibration)
        before, after = (errors_on_validation(problem, network, device) for network in (as_scored, solved))
        return solved if after < before else as_scored

    def epoch(self, genome: Genome, state: FitState) -> tuple[EpochReport, FitState]:
        """Trains a genome's network for one epoch. Returns the epoch's report, and the state after it.

        Raises:
            TrainingError: The loss is not finite.
        """
        retraining = self._retraining
        after: list[tuple[EpochReport, FitState]] = []
        fit(
            compact(self._problem.model, self._problem.space, genome),
            retraining.split,
            retraining.schedule,
            retraining.seed,
            self._device,
            recipe=make_recipe(retraining.make_recipe, retraining.config.recipe),
            average_decay=retraining.config.ema,
            augment=retraining.augment,
            task=self._problem.task,
            distillation=self._distillation,
            masks=self._masks(genome, state),
            state=state,
            until=state.epoch + 1,
            on_epoch=lambda report, reached: after.append((report, reached)),
        )
        return after[0]

    def _make_distillation(self) -> Distillation:
        """The distillation from the teacher of all survivors."""
        retraining, config = self._retraining, self._retraining.config
        model = self._problem.model if retraining.teacher is None else retraining.teacher
        teacher = Teacher(copied(model), retraining.split, self._device, config.precision)
        return Distillation(teacher, config.distillation, config.temperature)

    def _masks(self, genome: Genome, state: FitState) -> Mapping[str, Tensor]:
        """The masks of weights that may change, by name, of the layers in which some may not."""
        space = self._problem.space
        if not self._retraining.zeros_stay:
            return cut_masks(space, space.check(genome))
        weights = state.weights
        return {layer.weight: weights[layer.weight] != 0 for layer in space.layers}
