"""One candidate in, its score out: cut, compensated, recalibrated, and counted on the validation set."""

import copy
import time
from collections.abc import Callable, Set
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from evoprune.config.schema import CostName
from evoprune.latency.prediction import LatencyTable
from evoprune.scoring.candidate import Outcome, Score
from evoprune.scoring.candidate_costs import Costs, cost_by_name, costs_of
from evoprune.scoring.conditions import Conditions
from evoprune.scoring.execution import Execution
from evoprune.scoring.fusion import FusedNetwork, fused
from evoprune.space.phenotype import Phenotype
from evoprune.space.plan import Genome
from evoprune.space.search_space import SearchSpace
from evoprune.space.tensors import cut_tensors, named_tensors, replace_tensors, update_sizes, zeroed_tensors
from evoprune.surgery.compensation import compensated
from evoprune.surgery.layer_statistics import Statistics, on_device
from evoprune.surgery.recalibration import recalibrate
from evoprune.training.evaluation import misclassified
from evoprune.training.layout import laid_out, lay_out

PROBED_IMAGES = 4
"""Calibration images on which the fused network has to agree with the plain one."""

MOST_NATS = 100.0
"""An image's divergence at most, and where logits are not finite: e^-100 is no probability in single precision."""

AGREEMENT = 1e-3
"""Largest difference of their logits, as a share of the largest logit: far above rounding, far below a mistake."""


@dataclass(frozen=True, eq=False)
class Problem:
    """What every score depends on besides the genome and its generation's conditions; a worker holds it once.

    model: the baseline, in eval mode. calibration: float (n, c, h, w). images, labels: the validation set, those
    of the baseline's least margin first. allowed_errors: the most that a feasible candidate makes. statistics: None
    without compensation. said: float64 (images, classes), the logarithms of the probabilities that the baseline, as
    scored, gives the classes; None where no divergence is to be measured. latency: where candidates' latency is to be
    predicted. cost: what a known candidate of no higher one is compared by.
    """

    model: nn.Module
    space: SearchSpace
    calibration: Tensor
    images: Tensor
    labels: Tensor
    allowed_errors: int
    statistics: Statistics | None
    said: Tensor | None = None
    latency: LatencyTable | None = None
    cost: CostName = "macs"
    execution: Execution = field(default_factory=Execution)

    def cost_of(self, genome: Genome) -> float:
        """The genome's cost that the search minimises."""
        return float(cost_by_name(self.costs_of(self.space.phenotype(genome)), self.cost))

    def costs_of(self, phenotype: Phenotype) -> Costs:
        """All costs of a phenotype."""
        return costs_of(self.space, phenotype, self.latency)

    def scorer(self, device: torch.device) -> "Scorer":
        """What scores its candidates on a device."""
        return Scorer(self, device)

    def failed(self, genome: Genome) -> Outcome:
        """What stands for the score of a candidate that could not be scored: no images seen right, infeasible."""
        costs, total = self.costs_of(self.space.check(genome)), len(self.labels)
        score = Score(
            errors=total,
            images_seen=total,
            images=total,
            feasible=False,
            exact=False,
            macs=costs.macs,
            params=costs.params,
            bytes=costs.bytes,
            eval_seconds=0.0,
            latency_ms=costs.latency_ms,
            failed=True,
            divergence=None if self.said is None else MOST_NATS * total,
        )
        return Outcome.of(score, np.ones(total, dtype=bool))

    def first_conditions(self) -> Conditions:
        """Those of a generation before which nothing is known."""
        return Conditions(np.arange(len(self.labels)))


class Scorer:
    """Scores candidates of one problem, one after the other, on one network that changes its widths."""

    def __init__(self, problem: Problem, device: torch.device):
        self._problem = problem
        self._device = device
        self._network = copy.deepcopy(problem.model).to(device).eval()
        calibration = problem.calibration.to(device)
        channels_last = problem.execution.channels_last
        self._layout = lay_out(self._network, calibration) if channels_last else torch.contiguous_format
        self._tensors = {name: tensor.detach() for name, tensor in named_tensors(self._network)}
        self._calibration = laid_out(calibration, self._layout)
        self._statistics = None if problem.statistics is None else on_device(problem.statistics, device)
        self._changed: Set[str] = frozenset()
        self._fused = self._proved_fused() if problem.execution.fused else None
        self.under(problem.first_conditions())

    def under(self, conditions: Conditions) -> None:
        """What is scored from now on is scored under these conditions."""
        self._conditions = conditions
        order = torch.from_numpy(conditions.order)
        self._images = laid_out(self._problem.images[order].to(self._device), self._layout)
        self._labels = self._problem.labels[order].to(self._device)
        said = self._problem.said
        self._said = None if said is None else said[order].to(self._device)

    def score(self, genome: Genome) -> Outcome:
        """Cuts the genome's network out of the baseline's weights and counts its errors.

        Stops at the image at which the errors pass what is allowed: then the candidate is infeasible, whatever
        follows; or at which it is no better than a known one that is no dearer: then whether it is, is left open.
        """
        started = time.perf_counter()
        problem = self._problem
        phenotype = problem.space.check(genome)
        costs = problem.costs_of(phenotype)
        tolerated = problem.allowed_errors
        self._put(phenotype)
        flags, nats = self._seen(tolerated, self._conditions.beaten_above(cost_by_name(costs, problem.cost)))
        errors, seen, total = int(flags.sum()), len(flags), len(problem.labels)
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
            latency_ms=costs.latency_ms,
            divergence=None if self._said is None else float(nats.sum()),
        )
        return Outcome.of(score, flags)

    def logits(self, genome: Genome) -> Tensor:
        """The genome's network on all validation images, in the problem's order. Returns (images, classes), CPU."""
        forward, batches = self.forward(genome), self._problem.images.split(self._problem.execution.batch_size)
        return torch.cat([forward(batch.to(self._device)).cpu() for batch in batches])

    def forward(self, genome: Genome) -> Callable[[Tensor], Tensor]:
        """What computes the genome's logits (n, classes) of images (n, c, h, w) as they are scored.

        Valid until the next call.
        """
        self._put(self._problem.space.check(genome))
        with torch.inference_mode():
            calibrated = self._calibrated(self._problem.execution.calibration_batch_size)

        def logits(images: Tensor) -> Tensor:
            with torch.inference_mode():
                return calibrated(laid_out(images, self._layout))

        return logits

    def prepare(self, genome: Genome) -> nn.Module:
        """The genome's network as it is scored: cut, compensated, recalibrated. Valid until the next call."""
        self._put(self._problem.space.check(genome))
        recalibrate(self._network, self._calibration, self._problem.execution.calibration_batch_size)
        return self._network

    @torch.inference_mode()
    def _seen(self, tolerated: int, beaten_above: float) -> tuple[np.ndarray, np.ndarray]:
        """What the network as it was put makes of images, as `_until`; where memory runs out, in halves."""
        size, most = self._problem.execution.batch_size, self._problem.execution.calibration_batch_size
        while True:
            try:
                return self._until(self._calibrated(most), tolerated, beaten_above, size)
            except (MemoryError, RuntimeError) as error:
                if size == 1 or not _out_of_memory(error):
                    raise
            size, most = max(size // 2, 1), max(most // 2, 2)

    def _until(
        self, forward: Callable[[Tensor], Tensor], tolerated: int, beaten_above: float, size: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Which images are misclassified, and their divergences (0 where none is measured), until it is decided.

        Up to the image that passes `tolerated` errors, or, as candidates are judged, `beaten_above`; without early
        stop all. Returns bool (images seen,), float64 (images seen,).
        """
        by_errors, early_stop = self._conditions.judged_by == "errors", self._problem.execution.early_stop
        found: list[tuple[np.ndarray, np.ndarray]] = []
        errors, fitness = 0, 0.0
        for start in range(0, len(self._labels), size):
            batch = slice(start, start + size)
            logits = forward(self._images[batch])
            flags = misclassified(logits, self._labels[batch]).cpu().numpy()
            nats = np.zeros(len(flags)) if self._said is None else divergences(logits, self._said[batch]).cpu().numpy()
            errors_so_far, fitness_so_far = errors + flags.cumsum(), fitness + (flags if by_errors else nats).cumsum()
            decided = (errors_so_far > tolerated) | (fitness_so_far > beaten_above)
            if early_stop and decided.any():
                seen = int(decided.argmax()) + 1
                found.append((flags[:seen], nats[:seen]))
                break
            errors, fitness = int(errors_so_far[-1]), float(fitness_so_far[-1])
            found.append((flags, nats))
        all_flags, all_nats = zip(*found, strict=True)
        return np.concatenate(all_flags), np.concatenate(all_nats)

    def _calibrated(self, most: int) -> Callable[[Tensor], Tensor]:
        """The network as it was put, recalibrated on at most so many images a pass, fused where it can be."""
        if self._fused is not None:
            self._fused.calibrate(self._calibration, most)
            return self._fused
        recalibrate(self._network, self._calibration, most)
        return self._network

    @torch.no_grad()
    def _put(self, phenotype: Phenotype) -> None:
        """Makes the network the phenotype's, with the baseline's batch-norm statistics."""
        space = self._problem.space
        solved = compensated(self._tensors, space, phenotype, self._statistics) if self._statistics else {}
        change = cut_tensors if self._problem.execution.compacted else zeroed_tensors
        changed = solved | change(self._tensors | solved, space, phenotype)
        put_back = {name: self._tensors[name] for name in self._changed - changed.keys()}
        replace_tensors(
            self._network, put_back | {name: laid_out(tensor, self._layout) for name, tensor in changed.items()}
        )
        update_sizes(self._network, space)
        self._changed = changed.keys()
        self._forget_statistics()

    def _proved_fused(self) -> FusedNetwork | None:
        """The fused network, where it computes the same as the plain one, also when it gets narrower."""
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
                    difference = (network(probe) - expected).abs().max()
                except Exception:  # whatever a graph with numbers of the unpruned network in it does
                    return None
            if not difference <= AGREEMENT * expected.abs().max():
                return None
        return network

    def _forget_statistics(self) -> None:
        """Recalibration writes into running statistics: those must not be the baseline's own tensors."""
        for name, module in self._network.named_modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.track_running_stats:
                for buffer in ("running_mean", "running_var", "num_batches_tracked"):
                    full = f"{name}.{buffer}" if name else buffer
                    if full not in self._changed:
                        setattr(module, buffer, getattr(module, buffer).clone())


def _out_of_memory(error: Exception) -> bool:
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "allocate memory" in str(error)


def divergences(logits: Tensor, said: Tensor) -> Tensor:
    """How far what one network says of images is from what another one said: KL(said || logits), in nats.

    logits, said: (n, classes), the latter as logarithms of probabilities. Returns float64 (n,), of each image,
    0..MOST_NATS. Kullback and Leibler 1951.
    """
    given = functional.log_softmax(logits.double(), dim=1)
    apart = functional.kl_div(given, said, reduction="none", log_target=True).sum(1)
    return apart.nan_to_num(MOST_NATS, MOST_NATS).clamp(0, MOST_NATS)


def hardest_first(logits: Tensor, labels: Tensor) -> Tensor:
    """The order of images by the baseline's margin, least first. logits: (n, classes). Returns int64 (n,).

    The margin is the right class's logit over the best other one; images of little margin are the first to be
    misclassified by a smaller network, so that an infeasible one is found out early.
    """
    right = logits.gather(1, labels[:, None]).squeeze(1)
    others = logits.scatter(1, labels[:, None], -torch.inf).amax(1)
    return torch.argsort(right - others, stable=True)


def allowed_errors(baseline_errors: int, images: int, tolerance: float) -> int:
    """The most errors of a feasible candidate: the baseline's and `tolerance` (a fraction) of all images."""
    return int(np.floor(baseline_errors + tolerance * images + 1e-9))
