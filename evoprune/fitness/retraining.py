"""A survivor trained on, one epoch a call, so that what trains it can stop and go on anywhere."""

import copy
from dataclasses import dataclass

import torch
from torch import nn

from evoprune.config import RetrainConfig, TrainConfig
from evoprune.fitness.scoring import Problem, Scorer, wrong
from evoprune.nets.splits import Split
from evoprune.nets.training import EpochReport, FitState, fit
from evoprune.space.plan import Genome
from evoprune.space.slicing import copied, cut_masks
from evoprune.surgery.compaction import compact
from evoprune.surgery.sequential import compensate_sequentially


@dataclass(frozen=True, eq=False)
class Retraining:
    """What retraining depends on besides the genome. split: what is trained on. seed: of every draw in it."""

    config: RetrainConfig
    split: Split
    augment: tuple[str, ...]
    seed: int

    @property
    def schedule(self) -> TrainConfig:
        config = self.config
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
        self._teacher = copy.deepcopy(problem.model) if retraining.config.distillation else None

    def start(self, genome: Genome) -> FitState:
        """The genome's network before any training: as the search scored it (compensated, recalibrated).

        Or compensated sequentially, where that is asked for and makes fewer errors on the validation set.
        """
        as_scored = Scorer(self._problem, self._device).prepare(genome)
        if self._retraining.config.compensation != "sequential":
            return FitState.before(as_scored)
        return FitState.before(self._better(as_scored, genome))

    def _better(self, as_scored: nn.Module, genome: Genome) -> nn.Module:
        """This network, or its sequentially compensated copy."""
        problem, device = self._problem, self._device
        solved = copied(as_scored).to(memory_format=torch.contiguous_format)
        calibration, whole = problem.calibration.to(device), copied(problem.model).to(device).eval()
        compensate_sequentially(solved, whole, problem.space, problem.space.check(genome), calibration)
        return solved if self._errors(solved) < self._errors(as_scored) else as_scored

    def _errors(self, network: nn.Module) -> int:
        size, problem = self._problem.execution.batch_size, self._problem
        with torch.inference_mode():
            return sum(
                wrong(network(images.to(self._device)), labels.to(self._device))
                for images, labels in zip(problem.images.split(size), problem.labels.split(size), strict=True)
            )

    def epoch(self, genome: Genome, state: FitState) -> tuple[EpochReport, FitState]:
        """One more epoch. Returns what it was like, and the state after it. Raises TrainingError."""
        retraining = self._retraining
        after: list[tuple[EpochReport, FitState]] = []
        fit(
            compact(self._problem.model, self._problem.space, genome),
            retraining.split,
            retraining.schedule,
            retraining.seed,
            self._device,
            augment=retraining.augment,
            teacher=self._teacher,
            distillation=retraining.config.distillation,
            temperature=retraining.config.temperature,
            masks=cut_masks(self._problem.space, self._problem.space.check(genome)),
            state=state,
            until=state.epoch + 1,
            on_epoch=lambda report, reached: after.append((report, reached)),
        )
        return after[0]
