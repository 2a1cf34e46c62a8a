"""A whole search whose scores are made up from the genomes, with its record: for benchmarks of everything else."""

import tempfile
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import nn

from evoprune.config.schema import SearchConfig
from evoprune.criteria.preferences import magnitude_preferences
from evoprune.discovery.discover import search_space
from evoprune.networks.zoo import build_network
from evoprune.progress import SilentProgress
from evoprune.record import files
from evoprune.record.checkpoint import Snapshot, write_snapshot
from evoprune.record.folder import RunFolder
from evoprune.record.loop_state import loop_to_json
from evoprune.record.tables import candidates_frame
from evoprune.scoring.candidate import Candidate, Outcome, Score
from evoprune.scoring.conditions import Conditions
from evoprune.search.algorithms import make_algorithm
from evoprune.search.loop import SearchLoop
from evoprune.space.cost import cost
from evoprune.space.plan import Genome
from evoprune.space.search_space import SearchSpace
from evoprune.workers.protocol import Workers

NETWORK = "2x64C3-MP2-2x64C3-MP2-2x128C3-256FC-10"
"""The paper's CIFAR network at half width."""

IMAGE_SHAPE = (1, 28, 28)
IMAGES, ALLOWED_ERRORS = 2000, 200


class MadeUpScorer:
    """Has the interface of a scorer: its errors are drawn from the genome itself, in no time."""

    def set_conditions(self, conditions: Conditions) -> None:
        """Does nothing: the scores do not depend on the conditions."""

    def score(self, genome: Genome) -> Outcome:
        """100 to 249 errors on all images; every kept part costs one MAC and one parameter."""
        errors = 100 + zlib.crc32(genome.tobytes()) % 150
        macs = int(genome.sum())
        wrong = np.zeros(IMAGES, dtype=bool)
        wrong[:errors] = True
        score = Score(errors, IMAGES, IMAGES, errors <= ALLOWED_ERRORS, True, macs, macs, 4 * macs, 0.0)
        return Outcome.of(score, wrong)


def untrained_network() -> tuple[nn.Module, SearchSpace]:
    """The network with random weights, in eval mode, and its search space."""
    network = build_network(NETWORK, IMAGE_SHAPE, 10, torch.Generator().manual_seed(0)).eval()
    return network, search_space(network, torch.zeros(1, *IMAGE_SHAPE))


def recorded_search(
    network: nn.Module, space: SearchSpace, workers: Workers, config: SearchConfig, images: int
) -> list[Candidate]:
    """Runs a search and writes its record into a temporary run folder. Returns the candidates of all generations."""
    preferences, rng = magnitude_preferences(network, space), np.random.default_rng(0)
    algorithm = make_algorithm(space, config, preferences, lambda genome: float(cost(space, genome).macs), rng)
    loop = SearchLoop(algorithm, space, workers, config, SilentProgress(), images)
    candidates: list[Candidate] = []
    with tempfile.TemporaryDirectory(prefix="evoprune-") as place:
        folder = RunFolder(Path(place))
        while loop.has_next():
            generation = loop.next()
            candidates += generation.candidates
            files.write_parquet(folder.candidates(generation.number), candidates_frame(generation.candidates))
            snapshot = Snapshot(generation.number, algorithm.state(), loop_to_json(generation.state), {})
            write_snapshot(folder, snapshot)
    return candidates
