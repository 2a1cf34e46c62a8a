"""Predictions of the result of training: shapes of equal cost, measured before, early in and after training.

The shapes are those that a study's methods chose. All of them train on the same batches, and a row is written at each
point of the schedule. `proxy_agreement` compares what was known early with the result.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import torch

from evoprune.bench.study.study_config import StudyConfig, network_config
from evoprune.bench.study.study_tables import Choice, read_choices
from evoprune.config.schema import Config
from evoprune.data.load import Data, load_data
from evoprune.data.splits import Split
from evoprune.errors import ConfigError
from evoprune.networks.seeding import mixed_seed
from evoprune.networks.weights import load_weights
from evoprune.pipeline.posing import pose
from evoprune.pipeline.stages import retraining_with
from evoprune.record.csv_tables import read_csv, write_csv
from evoprune.record.lock import locked_table
from evoprune.scoring.scorer import Problem, Scorer
from evoprune.space.cost import cost
from evoprune.surgery.apply import compact
from evoprune.tasks.trees import select
from evoprune.training.devices import resolve_device
from evoprune.training.distillation import Distillation, Teacher
from evoprune.training.evaluation import evaluate
from evoprune.training.fit import FitState, fit
from evoprune.training.threads import torch_threads
from evoprune.workers.retraining import Retrainer, Retraining

PARTS = 4
"""Number of parts of the training images; networks are measured after whole parts."""

SCHEDULES = ((1, (1,)), (2, (2,)), (16, (1, 2, 4, 8, 16)))
"""Schedules, as their number of parts, and the parts after which networks are measured."""


@dataclass(frozen=True)
class ProxyRow:
    """One shape at one point of one schedule.

    Attributes:
        network: name of the network in the study.
        target: share of the unpruned MACs that the shape was chosen for.
        seed: of the choice; all shapes train with the seed 0.
        method: the method that chose it.
        key: of its phenotype.
        macs_ratio: share of the MACs that it keeps.
        params: number of its parameters.
        divergence: sum over the validation images before training, compensated, in nats.
        mcr_before: on the validation images before training, compensated.
        schedule_units: length of the schedule of learning rates, in units.
        units: training so far, in units: a unit is one pass over the training images, with gradients, through a
            network of exactly the target's MACs.
        spent_seconds: CPU seconds of training so far.
        cross_entropy_validation: mean over the validation images, in nats.
        cross_entropy_test: mean over the test images, in nats.
        mcr_test: on the test images.
    """

    network: str
    target: float
    seed: int
    method: str
    key: str
    macs_ratio: float
    params: int
    divergence: float
    mcr_before: float
    schedule_units: float
    units: float
    spent_seconds: float
    cross_entropy_validation: float
    cross_entropy_test: float
    mcr_test: float


def bench_proxies(
    study: StudyConfig, choices: Path, target: float, seed: int, out: Path, report: Callable[[str], None]
) -> None:
    """Trains every distinct shape that a study chose at a target, and writes a row at each point of each schedule.

    Args:
        study: names the networks; its `base.retrain` has batch size, learning rate and distillation.
        choices: the study's table of choices.
        target: share of the unpruned MACs.
        seed: of the choices that are taken.
        out: file of the table, CSV; shapes that it has are not trained again.
        report: receives a line for each shape.

    Raises:
        ConfigError: the table of choices has none at this target with this seed, or `out` is another table.
    """
    with locked_table(out):
        rows = _known(out)
        for network in study.networks:
            wanted = [one for one in read_choices(choices) if _is_wanted(one, network, target, seed)]
            chosen = _distinct(wanted)
            if not chosen:
                raise ConfigError(f"{choices} has no choices of {network} at {target:g} with seed {seed}; name others")
            left = [one for one in chosen if (network, one.key) not in {(row["network"], row["key"]) for row in rows}]
            if not left:
                continue
            trainer = ShapeTrainer.of(network_config(study, network), network, target)
            for choice in left:
                rows += [{name: str(value) for name, value in asdict(row).items()} for row in trainer.rows(choice)]
                write_csv(out, rows)
                report(f"{network}: {choice.method}, cross entropy {rows[-1]['cross_entropy_test']}")


@dataclass(frozen=True, eq=False)
class ShapeTrainer:
    """Trains shapes of one network.

    Attributes:
        network: its name in the study.
        target: share of the unpruned MACs.
        config: its experiment.
        problem: the network as a problem.
        data: its data.
        parts: the training images in `PARTS` parts, drawn at random.
        teachers: one for each part; empty if nothing is distilled.
        device: computes.
    """

    network: str
    target: float
    config: Config
    problem: Problem
    data: Data
    parts: tuple[Split, ...]
    teachers: tuple[Teacher, ...]
    device: torch.device

    @classmethod
    def of(cls, config: Config, network: str, target: float) -> "ShapeTrainer":
        """A trainer for the network of a config."""
        problem, data, device = pose(config), load_data(config.data, config.seed), resolve_device(config.device)
        order = torch.randperm(len(data.train), generator=torch.Generator().manual_seed(mixed_seed(config.seed, 0)))
        parts = tuple(_selected(data.train, indices) for indices in order.tensor_split(PARTS))
        retrain = config.retrain
        wanted = parts if retrain.distillation else ()
        teachers = tuple(Teacher(problem.model, part, device, retrain.precision) for part in wanted)
        return cls(network, target, config, problem, data, parts, teachers, device)

    def rows(self, choice: Choice) -> list[ProxyRow]:
        """Trains a shape by every schedule; a row for each point."""
        problem, genome = self.problem, choice.genes
        left, whole = cost(problem.space, genome), cost(problem.space, problem.space.full())
        score = Scorer(problem, self.device).score(genome).score
        start = Retrainer(problem, self._retraining(1), self.device).start(genome)
        common = ProxyRow(
            network=self.network,
            target=self.target,
            seed=choice.seed,
            method=choice.method,
            key=choice.key,
            macs_ratio=round(left.macs / whole.macs, 5),
            params=left.params,
            divergence=round(float(score.divergence or 0), 4),
            mcr_before=score.errors / score.images,
            schedule_units=0,
            units=0,
            spent_seconds=0,
            cross_entropy_validation=math.nan,
            cross_entropy_test=math.nan,
            mcr_test=math.nan,
        )
        units_a_part = left.macs / (self.target * whole.macs) / PARTS
        rows = [self._measured(choice, start, common)]
        for length, points in SCHEDULES:
            state, spent = start, 0.0
            for part in range(1, length + 1):
                began = time.process_time()
                state = self._trained(choice, state, length, part)
                spent += time.process_time() - began
                if part in points:
                    point = replace(
                        common,
                        schedule_units=round(length * units_a_part, 4),
                        units=round(part * units_a_part, 4),
                        spent_seconds=round(spent, 1),
                    )
                    rows.append(self._measured(choice, state, point))
        return rows

    def _trained(self, choice: Choice, state: FitState, length: int, part: int) -> FitState:
        """The state after one more part of a schedule of `length` parts."""
        place, retraining = (part - 1) % PARTS, self._retraining(length)
        reached: list[FitState] = []
        with torch_threads(self.config.workers.threads):
            fit(
                compact(self.problem.model, self.problem.space, choice.genes),
                self.parts[place],
                retraining.schedule,
                retraining.seed,
                self.device,
                augment=retraining.augment,
                distillation=self._distillation(place),
                state=state,
                until=part,
                on_epoch=lambda report, after: reached.append(after),
            )
        return reached[-1]

    def _retraining(self, length: int) -> Retraining:
        """The retraining whose epochs are parts."""
        settings = self.config.retrain.model_copy(update={"epochs": length, "distillation": 0.0})
        return retraining_with(settings, self.config, self.data.train, seed=0)

    def _distillation(self, place: int) -> Distillation | None:
        if not self.teachers:
            return None
        return Distillation(self.teachers[place], self.config.retrain.distillation, self.config.retrain.temperature)

    def _measured(self, choice: Choice, state: FitState, row: ProxyRow) -> ProxyRow:
        """The row with cross entropies and MCR of a state."""
        network = compact(self.problem.model, self.problem.space, choice.genes)
        load_weights(network, state.weights, "trained weights")
        validation = evaluate(network, self.data.validation, self.device)
        test = evaluate(network, self.data.test, self.device)
        return replace(
            row,
            cross_entropy_validation=round(validation.loss, 5),
            cross_entropy_test=round(test.loss, 5),
            mcr_test=round(test.mcr, 5),
        )


def _selected(split: Split, indices: torch.Tensor) -> Split:
    return replace(split, images=split.images.select(indices), targets=select(split.targets, indices))


def _is_wanted(choice: Choice, network: str, target: float, seed: int) -> bool:
    return (choice.network, choice.target, choice.seed, choice.compensation) == (network, target, seed, "gram")


def _distinct(choices: Sequence[Choice]) -> list[Choice]:
    """The first choice of each phenotype."""
    return list({choice.key: choice for choice in reversed(choices)}.values())[::-1]


def _known(out: Path) -> list[dict[str, str]]:
    return read_csv(out, [field.name for field in fields(ProxyRow)])
