"""What operators should rather keep, from what is known of a problem's network."""

from dataclasses import replace

import numpy as np

from evoprune.fitness.scoring import Problem
from evoprune.search.criteria import Preferences, magnitude_preferences
from evoprune.space.slicing import named_tensors
from evoprune.surgery.elimination import eliminations


def preferences_for(problem: Problem) -> Preferences:
    """Maps by what compensation loses without them, where scores are compensated; all others by magnitude."""
    space, preferences = problem.space, magnitude_preferences(problem.model, problem.space)
    if problem.statistics is None:
        return preferences
    tensors = {name: tensor.detach() for name, tensor in named_tensors(problem.model)}
    maps = preferences.maps.copy()
    for group, elimination in zip(space.groups, eliminations(space, tensors, problem.statistics), strict=True):
        if elimination is not None:
            maps[group.start + elimination.order] = np.linspace(0, 1, group.size)
    return replace(preferences, maps=maps)
