"""One candidate in, its score out: cut, compensated, recalibrated, and counted on the validation set."""

import copy
import time
from collections.abc import Set
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from evoprune.fitness.candidate import Score
from evoprune.fitness.layer_times import LatencyTable
from evoprune.nets.layout import lay_out
from evoprune.space.cost import phenotype_cost
from evoprune.space.phenotype import Phenotype
from evoprune.space.plan import Genome, SearchSpace
from evoprune.space.slicing import cut_tensors, mend, named_tensors, replace_tensors
from evoprune.surgery.compensation import Statistics, compensated, on_device
from evoprune.surgery.recalibration import recalibrate


@dataclass(frozen=True, eq=False)
class Problem:
    """What every score depends on besides the genome; a worker holds it once.

    model: the baseline, in eval mode. calibration: float (n, c, h, w). images, labels: the validation set, in the
    order in which it is scored. allowed_errors: the most that a feasible candidate makes. statistics: None without
    compensation. latency: where candidates' latency is to be predicted. batch_size: validation images a forward pass.
    """

    model: nn.Module
    space: SearchSpace
    calibration: Tensor
    images: Tensor
    labels: Tensor
    allowed_errors: int
    statistics: Statistics | None
    latency: LatencyTable | None = None
    batch_size: int = 50


class Scorer:
    """Scores candidates of one problem, one after the other, on one network that changes its widths."""

    def __init__(self, problem: Problem, device: torch.device):
        self._problem = problem
        self._device = device
        self._network = copy.deepcopy(problem.model).to(device).eval()
        self._layout = lay_out(self._network, problem.calibration.to(device))
        self._tensors = {name: tensor.detach() for name, tensor in named_tensors(self._network)}
        self._calibration = self._laid_out(problem.calibration.to(device))
        self._images = self._laid_out(problem.images.to(device))
        self._labels = problem.labels.to(device)
        self._statistics = None if problem.statistics is None else on_device(problem.statistics, device)
        self._changed: Set[str] = frozenset()

    def score(self, genome: Genome) -> Score:
        """Cuts the genome's network out of the baseline's weights and counts its errors.

        Stops as soon as the errors pass what is allowed: then the candidate is infeasible, whatever follows.
        """
        started = time.perf_counter()
        problem = self._problem
        phenotype = problem.space.check(genome)
        network = self._prepare(phenotype)
        errors = seen = 0
        with torch.inference_mode():
            batches = zip(self._images.split(problem.batch_size), self._labels.split(problem.batch_size), strict=True)
            for images, labels in batches:
                errors += wrong(network(images), labels)
                seen += len(labels)
                if errors > problem.allowed_errors:
                    break
        total = len(problem.labels)
        price = phenotype_cost(problem.space, phenotype)
        return Score(
            errors=errors,
            images_seen=seen,
            images=total,
            feasible=errors <= problem.allowed_errors,
            exact=seen == total,
            macs=price.macs,
            params=price.params,
            bytes=price.bytes,
            eval_seconds=time.perf_counter() - started,
            latency_ms=None if problem.latency is None else problem.latency.predict(problem.space, phenotype),
        )

    def prepare(self, genome: Genome) -> nn.Module:
        """The genome's network as it is scored: cut, compensated, recalibrated. Valid until the next call."""
        return self._prepare(self._problem.space.check(genome))

    def _prepare(self, phenotype: Phenotype) -> nn.Module:
        problem = self._problem
        solved = compensated(self._tensors, problem.space, phenotype, self._statistics) if self._statistics else {}
        changed = solved | cut_tensors(self._tensors | solved, problem.space, phenotype)
        put_back = {name: self._tensors[name] for name in self._changed - changed.keys()}
        replace_tensors(self._network, put_back | {name: self._laid_out(tensor) for name, tensor in changed.items()})
        mend(self._network, problem.space)
        self._changed = changed.keys()
        self._forget_statistics()
        recalibrate(self._network, self._calibration)
        return self._network

    def _laid_out(self, tensor: Tensor) -> Tensor:
        return tensor.contiguous(memory_format=self._layout) if tensor.ndim == 4 else tensor

    def _forget_statistics(self) -> None:
        """Recalibration writes into running statistics: those must not be the baseline's own tensors."""
        for name, module in self._network.named_modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.track_running_stats:
                for buffer in ("running_mean", "running_var", "num_batches_tracked"):
                    full = f"{name}.{buffer}" if name else buffer
                    if full not in self._changed:
                        setattr(module, buffer, getattr(module, buffer).clone())


def wrong(logits: Tensor, labels: Tensor) -> int:
    """How many of a batch are misclassified; logits that are not finite count as errors."""
    right = (logits.argmax(1) == labels) & logits.isfinite().all(1)
    return len(labels) - int(right.sum())


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
