"""A surrogate model of the fitness: a Gaussian process over the widths of the candidates scored so far."""

from collections.abc import Mapping, Sequence

import numpy as np
from scipy.linalg import cho_factor, cho_solve

from evoprune.scoring.candidate import Candidate
from evoprune.search.objective import Objective
from evoprune.space.plan import Genome
from evoprune.space.search_space import SearchSpace

MOST_EXAMPLES = 400
"""Number of candidates that the model is fitted to: the latest ones."""

LENGTHS = (0.5, 1.0, 2.0, 4.0)
"""Length scales, in logarithms of widths; the one of the highest likelihood is taken."""

NOISES = (0.003, 0.01, 0.03, 0.1, 0.3)
"""Variances of the noise, as shares of the signal's variance; the one of the highest likelihood is taken."""

OPTIMISM = 0.5
"""Standard deviations by which a prediction is lowered: children far from all examples get a chance."""

_TINY = 1e-12


class Surrogate:
    """Predicts the logarithm of the fitness from the logarithms of the groups' widths.

    Candidates whose scoring stopped early count with the fitness they had by then.

    References:
        Rasmussen and Williams 2006, algorithm 2.1 and eq. 5.8; Jin 2011 (pre-selection of children).
    """

    def __init__(self, space: SearchSpace, objective: Objective):
        """Starts without examples.

        Args:
            space: search space of the candidates.
            objective: names the fitness that is predicted.
        """
        self._space = space
        self._objective = objective
        self._examples: dict[str, tuple[np.ndarray, float]] = {}
        self._process: GaussianProcess | None = None

    @property
    def keys(self) -> list[str]:
        """Keys of the candidates that the model is fitted to: its whole state."""
        return list(self._examples)

    def tell(self, candidates: Sequence[Candidate]) -> None:
        """Takes scored candidates as examples; those it has already change nothing."""
        for candidate in candidates:
            if candidate.key not in self._examples:
                fitness = np.log1p(self._objective.fitness_of(candidate))
                self._examples[candidate.key] = self._features(candidate.genome), fitness
                self._process = None
        for key in self.keys[:-MOST_EXAMPLES]:
            del self._examples[key]

    def restore(self, keys: Sequence[str], candidates: Mapping[str, Candidate]) -> None:
        """Continues with the examples of these keys."""
        self._examples, self._process = {}, None
        self.tell([candidates[key] for key in keys])

    def most_promising(self, genomes: Sequence[Genome]) -> Genome:
        """The genome of the lowest predicted fitness, less `OPTIMISM` standard deviations.

        There must be at least one example.
        """
        if self._process is None:
            inputs, outputs = zip(*self._examples.values(), strict=True)
            self._process = GaussianProcess(np.array(inputs), np.array(outputs))
        mean, deviation = self._process.predict(np.array([self._features(genome) for genome in genomes]))
        return genomes[int(np.argmin(mean - OPTIMISM * deviation))]

    def _features(self, genome: Genome) -> np.ndarray:
        return np.log(np.maximum(self._space.widths(genome), 1))


class GaussianProcess:
    """Regression with a squared exponential kernel, whose length scale and noise maximise the likelihood."""

    def __init__(self, inputs: np.ndarray, outputs: np.ndarray):
        """Fits the process.

        Args:
            inputs: float (examples, features).
            outputs: float (examples,).
        """
        self._inputs, self._mean = inputs, outputs.mean()
        values, squares, likelihood = outputs - self._mean, _squared_distances(inputs, inputs), -np.inf
        for length in LENGTHS:
            kernel = np.exp(-squares / (2 * length**2))
            for noise in NOISES:
                factor = cho_factor(kernel + noise * np.eye(len(values)), lower=True)
                weights = cho_solve(factor, values)
                # The signal's variance of the highest likelihood, given length scale and noise.
                variance = max(values @ weights / len(values), _TINY)
                found = -0.5 * len(values) * np.log(variance) - np.log(np.diag(factor[0])).sum()
                if found > likelihood:
                    likelihood, self._length, self._variance = found, length, variance
                    self._factor, self._weights = factor, weights

    def predict(self, inputs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Means and standard deviations of the noiseless value.

        Args:
            inputs: float (n, features).

        Returns:
            Two float arrays (n,).
        """
        kernel = np.exp(-_squared_distances(inputs, self._inputs) / (2 * self._length**2))
        explained = (kernel * cho_solve(self._factor, kernel.T).T).sum(1)
        return self._mean + kernel @ self._weights, np.sqrt(self._variance * np.maximum(1 - explained, 0))


def _squared_distances(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Squared distance of every row to every row: float (rows of one, rows of other)."""
    return ((one[:, None] - other[None]) ** 2).sum(-1)
