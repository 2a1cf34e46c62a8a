"""How fit a genome will be, guessed from the widths of those that were scored."""

from collections.abc import Mapping, Sequence

import numpy as np
from scipy.linalg import cho_factor, cho_solve

from evoprune.scoring.candidate import Candidate
from evoprune.search.objective import Objective
from evoprune.space.plan import Genome
from evoprune.space.search_space import SearchSpace

MOST_EXAMPLES = 400
"""Candidates that a guess rests on: the latest ones."""

LENGTHS = (0.5, 1.0, 2.0, 4.0)
"""Length scales, in logarithms of widths, of which the likeliest is taken."""

NOISES = (0.003, 0.01, 0.03, 0.1, 0.3)
"""Variances of noise, as shares of the variance without it, of which the likeliest is taken."""

OPTIMISM = 0.5
"""Standard deviations that a guess is better than the mean: what is not known may be good."""

_TINY = 1e-12


class Surrogate:
    """A Gaussian process over the logarithms of the groups' widths, of the logarithm of errors (or divergence).

    Candidates whose scoring was stopped count with what they had till then.
    Rasmussen and Williams 2006, algorithm 2.1 and eq. 5.8; children preselected by it: Jin 2011.
    """

    def __init__(self, space: SearchSpace, objective: Objective):
        self._space = space
        self._objective = objective
        self._told: dict[str, tuple[np.ndarray, float]] = {}
        self._process: GaussianProcess | None = None

    @property
    def keys(self) -> list[str]:
        """Of the candidates that it goes by, which is all that it has to be given again."""
        return list(self._told)

    def tell(self, candidates: Sequence[Candidate]) -> None:
        """Scored candidates; those that it knows already change nothing."""
        for candidate in candidates:
            if candidate.key not in self._told:
                fitness = np.log1p(self._objective.fitness_of(candidate))
                self._told[candidate.key] = self._described(candidate.genome), fitness
                self._process = None
        for key in self.keys[:-MOST_EXAMPLES]:
            del self._told[key]

    def restore(self, keys: Sequence[str], candidates: Mapping[str, Candidate]) -> None:
        """To when it went by these."""
        self._told, self._process = {}, None
        self.tell([candidates[key] for key in keys])

    def most_promising(self, genomes: Sequence[Genome]) -> Genome:
        """The genome of which the best may be hoped for; some candidates must have been told before."""
        if self._process is None:
            inputs, outputs = zip(*self._told.values(), strict=True)
            self._process = GaussianProcess(np.array(inputs), np.array(outputs))
        mean, deviation = self._process.predicted(np.array([self._described(genome) for genome in genomes]))
        return genomes[int(np.argmin(mean - OPTIMISM * deviation))]

    def _described(self, genome: Genome) -> np.ndarray:
        return np.log(np.maximum(self._space.widths(genome), 1))


class GaussianProcess:
    """Regression with a squared exponential kernel; its length and its noise are the likeliest of those above.

    inputs: float (examples, features). outputs: float (examples,).
    """

    def __init__(self, inputs: np.ndarray, outputs: np.ndarray):
        self._inputs, self._mean = inputs, outputs.mean()
        values, squares, likelihood = outputs - self._mean, _squares(inputs, inputs), -np.inf
        for length in LENGTHS:
            kernel = np.exp(-squares / (2 * length**2))
            for noise in NOISES:
                factor = cho_factor(kernel + noise * np.eye(len(values)), lower=True)
                weights = cho_solve(factor, values)
                variance = max(values @ weights / len(values), _TINY)  # the likeliest, given length and noise
                found = -0.5 * len(values) * np.log(variance) - np.log(np.diag(factor[0])).sum()
                if found > likelihood:
                    likelihood, self._length, self._variance = found, length, variance
                    self._factor, self._weights = factor, weights

    def predicted(self, inputs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Means and standard deviations (of the noiseless value) there: float (inputs,) each."""
        kernel = np.exp(-_squares(inputs, self._inputs) / (2 * self._length**2))
        explained = (kernel * cho_solve(self._factor, kernel.T).T).sum(1)
        return self._mean + kernel @ self._weights, np.sqrt(self._variance * np.maximum(1 - explained, 0))


def _squares(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Squared distances of every row to every row: float (rows of one, rows of other)."""
    return ((one[:, None] - other[None]) ** 2).sum(-1)
