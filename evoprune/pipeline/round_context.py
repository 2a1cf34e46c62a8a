"""The data that the stages of a run share."""

from dataclasses import dataclass

import torch
from torch import nn

from evoprune.config.schema import Config
from evoprune.data.load import Data
from evoprune.progress import Progress
from evoprune.record.folder import RunFolder
from evoprune.space.search_space import SearchSpace
from evoprune.tasks.task import Task

BASELINE_SEED, SEARCH_SEED, RETRAIN_SEED, CRITERION_SEED = 1, 2, 3, 4
"""Mixed with the config's seed, so that no two stages draw the same random numbers."""

BASELINE = "baseline"
"""The unpruned network's name in progress, training states and tables; survivors go by their keys."""


@dataclass(frozen=True, eq=False)
class Reference:
    """The unpruned network of the first round: tolerance, targets and ratios of all rounds are relative to it.

    model: in eval mode. folder: of the first round.
    """

    model: nn.Module
    space: SearchSpace
    folder: RunFolder


@dataclass(frozen=True, eq=False)
class RoundContext:
    """The input of every stage of a round; a run without rounds is one round.

    config: of this round. network: freshly initialised, or the network that the previous round handed on.
    task: judges outputs; it is fitted to the validation targets once there is a baseline.
    reference: None in the first round, whose own baseline is the reference.
    """

    config: Config
    folder: RunFolder
    data: Data
    network: nn.Module
    space: SearchSpace
    device: torch.device
    progress: Progress
    task: Task
    reference: Reference | None = None
