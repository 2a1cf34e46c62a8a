"""The scorer: cuts, compensates and recalibrates a candidate's network, and sums its errors on the validation set."""

import time
from collections.abc import Callable, Set
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from evoprune.costs.cost_model import CostModel
from evoprune.costs.macs import Macs
from evoprune.scoring.candidate import Outcome, Score
from evoprune.scoring.candidate_costs import Costs, cost_in, costs_of
from evoprune.scoring.conditions import Conditions
from evoprune.scoring.execution import Execution
from evoprune.scoring.fusion import FusedNetwork, fused
from evoprune.space.phenotype import Phenotype
from evoprune.space.plan import Genome
from evoprune.space.search_space import SearchSpace
from evoprune.space.tensors import copied, cut_tensors, named_tensors, replace_tensors, update_sizes, zeroed_tensors
from evoprune.surgery.compensation import compensated
from evoprune.surgery.layer_statistics import Statistics, on_device
from evoprune.surgery.recalibration import recalibrate
from evoprune.tasks.classification import Classification
from evoprune.tasks.judging import divergences_of, errors_of, weighted
from evoprune.tasks.task import Task
from evoprune.tasks.trees import Tree, concatenated, moved, select, tensors_in
from evoprune.training.layout import laid_out, lay_out

PROBED_IMAGES = 4
"""Number of calibration images on which the outputs of the fused and the plain network are compared."""

AGREEMENT = 1e-3
"""Largest difference between these outputs, as a share of the largest one: far above rounding, far below a mistake."""


@dataclass(frozen=True, eq=False)
class Problem:
    """What all scores of a search depend on besides genome and conditions. Each worker holds it once.

    Attributes:
        model: The baseline, in eval mode.
        space: The search space of the baseline.
        calibration: float (n, c, h, w), images for batch-norm statistics.
        images: float (m, c, h, w), the validation images, those of the baseline's least margin first.
        targets: The targets of `images`.
        allowed_errors: The largest sum of errors of a feasible candidate; an int if each error is 0 or 1.
        statistics: Gram matrices for compensation; None: no compensation.
        reference: What the task keeps of the baseline's outputs, as scored; None: no divergence is measured.
        cost: The cost that the search minimises.
        execution: How networks are run.
        task: Judges outputs.
        weights: float64 (m,), factors of the errors of `images`; None: 1.
    """

    model: nn.Module
    space: SearchSpace
    calibration: Tensor
    images: Tensor
    targets: Tree
    allowed_errors: float
    statistics: Statistics | None
    reference: Tree | None = None
    cost: CostModel = field(default_factory=Macs)
    execution: Execution = field(default_factory=Execution)
    task: Task = field(default_factory=Classification)
    weights: Tensor | None = None

    def cost_of(self, genome: Genome) -> float:
        """The genome's cost that the search minimises."""
        return float(self.cost.of(self.space, self.space.phenotype(genome)))

    def costs_of(self, phenotype: Phenotype) -> Costs:
        """All costs of a phenotype."""
        return costs_of(self.space, phenotype, self.cost)

    def scorer(self, device: torch.device) -> "Scorer":
        """A scorer of the problem's candidates on a device."""
        return Scorer(self, device)

    def failed(self, genome: Genome) -> Outcome:
        """The outcome of a candidate that cannot be scored: infeasible, with all images wrong."""
        costs, total = self.costs_of(self.space.check(genome)), len(self.images)
        score = Score(
            errors=type(self.allowed_errors)(total),
            images_seen=total,
            images=total,
            feasible=False,
            exact=False,
            macs=costs.macs,
            params=costs.params,
            bytes=costs.bytes,
            eval_seconds=0.0,
            other_costs=costs.other_costs,
            failed=True,
            divergence=None if self.reference is None else self.task.most_divergence * total,
        )
        return Outcome.of(score, np.ones(total, dtype=bool))

    def first_conditions(self) -> Conditions:
        """The conditions of a search's first generation: images in their order, no bounds."""
        return Conditions(np.arange(len(self.images)))


@dataclass(frozen=True, eq=False)
class _Counted:
    """The errors of the images seen.

    Attributes:
        sum: Of the errors, weighted if there are weights; an int if each error is 0 or 1.
        errors: bool or float64 (images seen,), without weights.
        divergences: float64 (images seen,); 0 if none are measured.
    """

    sum: float
    errors: np.ndarray
    divergences: np.ndarray


class Scorer:
    """Scores candidates of one problem, one after the other, on one network whose widths change."""

    def __init__(self, problem: Problem, device: torch.device):
        """Copies the baseline to the device, and fuses it if the fused network computes the same."""
        self._problem = problem
        self._device = device
        self._network = copied(problem.model).to(device).eval()
        calibration = problem.calibration.to(device)
        channels_last = problem.execution.channels_last
        self._layout = lay_out(self._network, calibration) if channels_last else torch.contiguous_format
        self._tensors = {name: tensor.detach() for name, tensor in named_tensors(self._network)}
        self._calibration = laid_out(calibration, self._layout)
        self._statistics = None if problem.statistics is None else on_device(problem.statistics, device)
        self._changed: Set[str] = frozenset()
        self._fused = self._proved_fused() if problem.execution.fused else None
        self.set_conditions(problem.first_conditions())

    def set_conditions(self, conditions: Conditions) -> None:
        """Sets the conditions of the scores from now on."""
        self._conditions = conditions
        order = torch.from_numpy(conditions.order)
        self._images = laid_out(self._problem.images[order].to(self._device), self._layout)
        self._targets = self._in_order(self._problem.targets, order)
        self._reference = self._in_order(self._problem.reference, order)
        self._weights = self._in_order(self._problem.weights, order)

    def _in_order(self, tree: Tree, order: Tensor) -> Tree:
        return moved(select(tree, order), self._device)

    def score(self, genome: Genome) -> Outcome:
        """Scores a genome: cuts its network out of the baseline, and sums its errors.

        The sum stops at the image at which the errors pass the allowed ones, which makes the candidate infeasible;
        or at which its fitness passes the bound of the conditions, which leaves open whether it is feasible.

        Raises:
            SearchSpaceError: The genome belongs to another search space.
        """
        started = time.perf_counter()
        problem = self._problem
        phenotype = problem.space.check(genome)
        costs = problem.costs_of(phenotype)
        tolerated = problem.allowed_errors
        self._set_network(phenotype)
        counted = self._count(tolerated, self._conditions.fitness_bound(cost_in(problem.cost.column, costs)))
        errors, seen, total = counted.sum, len(counted.errors), len(problem.images)
        exact = seen == total
        score = Score(
            errors=errors,
            images_seen=seen,
            images=total,
            feasible=True if exact and errors <= tolerated else False if errors > tolerated else None,
            exact=exact,
            macs=costs.macs,
            params=costs.params,
            bytes=costs.bytes,
            eval_seconds=time.perf_counter() - started,
            other_costs=costs.other_costs,
            divergence=None if self._reference is None else float(counted.divergences.sum()),
        )
        return Outcome.of(score, counted.errors)

    def outputs(self, genome: Genome) -> Tree:
        """The outputs of the genome's network on all validation images, on the CPU."""
        forward, batches = self.forward(genome), self._problem.images.split(self._problem.execution.batch_size)
        return concatenated([moved(forward(batch.to(self._device)), torch.device("cpu")) for batch in batches])

    def forward(self, genome: Genome) -> Callable[[Tensor], Tree]:
        """The genome's network as it is scored, as a function from images (n, c, h, w) to outputs.

        The function is valid until the scorer's next call.
        """
        self._set_network(self._problem.space.check(genome))
        with torch.inference_mode():
            calibrated = self._calibrated(self._problem.execution.calibration_batch_size)

        def outputs(images: Tensor) -> Tree:
            with torch.inference_mode():
                return calibrated(laid_out(images, self._layout))

        return outputs

    def prepare(self, genome: Genome) -> nn.Module:
        """The genome's network, cut, compensated and recalibrated, but not fused. It is valid until the next call."""
        self._set_network(self._problem.space.check(genome))
        recalibrate(self._network, self._calibration, self._problem.execution.calibration_batch_size)
        return self._network

    @torch.inference_mode()
    def _count(self, tolerated: float, fitness_bound: float) -> "_Counted":
        """As `_count_in_batches`; batches are halved as long as memory runs out."""
        size, most = self._problem.execution.batch_size, self._problem.execution.calibration_batch_size
        while True:
            try:
                return self._count_in_batches(self._calibrated(most), tolerated, fitness_bound, size)
            except (MemoryError, RuntimeError) as error:
                if size == 1 or not _out_of_memory(error):
                    raise
            size, most = max(size // 2, 1), max(most // 2, 2)

    def _count_in_batches(
        self, forward: Callable[[Tensor], Tree], tolerated: float, fitness_bound: float, size: int
    ) -> "_Counted":
        """The errors of images, and their divergences, up to the image that decides the score.

        Neither is ever negative, so that later images could not change the decision.

        Args:
            forward: Computes outputs of images.
            tolerated: The sum of errors above which counting stops.
            fitness_bound: The fitness above which counting stops.
            size: Number of images in a batch.
        """
        by_errors, early_stop = self._conditions.judged_by == "errors", self._problem.execution.early_stop
        found: list[tuple[np.ndarray, np.ndarray]] = []
        errors: float = 0
        fitness = 0.0
        for start in range(0, len(self._images), size):
            batch = slice(start, start + size)
            outputs = forward(self._images[batch])
            unweighted = errors_of(self._problem.task, outputs, select(self._targets, batch))
            each, counted = unweighted.cpu().numpy(), self._weighted(unweighted, batch).cpu().numpy()
            apart = self._divergences(outputs, batch, len(each))
            errors_so_far, fitness_so_far = (
                errors + counted.cumsum(),
                fitness + (counted if by_errors else apart).cumsum(),
            )
            decided = (errors_so_far > tolerated) | (fitness_so_far > fitness_bound)
            stops = early_stop and bool(decided.any())
            seen = int(decided.argmax()) + 1 if stops else len(each)
            errors, fitness = errors_so_far[seen - 1].item(), float(fitness_so_far[seen - 1])
            found.append((each[:seen], apart[:seen]))
            if stops:
                break
        all_errors, all_divergences = zip(*found, strict=True)
        return _Counted(errors, np.concatenate(all_errors), np.concatenate(all_divergences))

    def _weighted(self, errors: Tensor, batch: slice) -> Tensor:
        return errors if self._weights is None else weighted(errors, self._weights[batch])

    def _divergences(self, outputs: Tree, batch: slice, images: int) -> np.ndarray:
        if self._reference is None:
            return np.zeros(images)
        return divergences_of(self._problem.task, outputs, select(self._reference, batch)).cpu().numpy()

    def _calibrated(self, most: int) -> Callable[[Tensor], Tree]:
        """The present network, recalibrated on at most `most` images a pass, and fused if possible."""
        if self._fused is not None:
            self._fused.calibrate(self._calibration, most)
            return self._fused
        recalibrate(self._network, self._calibration, most)
        return self._network

    @torch.no_grad()
    def _set_network(self, phenotype: Phenotype) -> None:
        """Changes the network to the phenotype's, with the baseline's batch-norm statistics."""
        space = self._problem.space
        solved = compensated(self._tensors, space, phenotype, self._statistics) if self._statistics else {}
        change = cut_tensors if self._problem.execution.compacted else zeroed_tensors
        changed = solved | change(self._tensors | solved, space, phenotype)
        restored = {name: self._tensors[name] for name in self._changed - changed.keys()}
        replace_tensors(
            self._network, restored | {name: laid_out(tensor, self._layout) for name, tensor in changed.items()}
        )
        update_sizes(self._network, space, phenotype if self._problem.execution.compacted else None)
        self._changed = changed.keys()
        self._forget_statistics()

    def _proved_fused(self) -> FusedNetwork | None:
        """The fused network if it computes the same as the plain one at two widths; else None."""
        network = fused(self._network)
        if network is None:
            return None
        space, probe = self._problem.space, self._calibration[:PROBED_IMAGES]
        most = self._problem.execution.calibration_batch_size
        for genome in (space.random(np.random.default_rng(0)), space.full()):
            plain = self.prepare(genome)
            with torch.inference_mode():
                expected = plain(probe)
                try:
                    network.calibrate(self._calibration, most)
                    agrees = _agree(network(probe), expected)
                except Exception:  # a graph may hold widths of the unpruned network
                    return None
            if not agrees:
                return None
        return network

    def _forget_statistics(self) -> None:
        """Replaces running statistics, which are the baseline's, by copies, because recalibration writes into them."""
        for name, module in self._network.named_modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.track_running_stats:
                for buffer in ("running_mean", "running_var", "num_batches_tracked"):
                    full = f"{name}.{buffer}" if name else buffer
                    if full not in self._changed:
                        setattr(module, buffer, getattr(module, buffer).clone())


def _agree(outputs: Tree, expected: Tree) -> bool:
    """Whether all tensors of the outputs agree with those expected, within `AGREEMENT`."""

    def agree(found: Tensor, wanted: Tensor) -> bool:
        return bool((found - wanted).abs().max() <= AGREEMENT * wanted.abs().max())

    pairs = zip(tensors_in(outputs), tensors_in(expected), strict=True)
    return all(agree(found, wanted) for found, wanted in pairs if wanted.numel())


def _out_of_memory(error: Exception) -> bool:
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "allocate memory" in str(error)
