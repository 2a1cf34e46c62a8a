"""The names between which a config chooses.

Of the plug-ins, these are the names of the built-in ones, so that a config is checked without importing them; a plug-in
of the user's is `module:attribute`. A test compares them with the registries.
"""

from typing import Annotated, Literal, get_args

from evoprune.config.plugin_names import PluginName
from evoprune.plugins.kinds import ALGORITHMS, COSTS, CRITERIA, RECIPES, TASKS

TORCHVISION, TIMM = "torchvision:", "timm:"
LIBRARIES = (TORCHVISION, TIMM)
"""Prefixes of networks that are those of an installed library, not code of the user's."""

AlgorithmName = Literal["widths", "nsga2", "genetic", "particle_filter", "random", "ranking"]
Augmentation = Literal[
    "crop",
    "flip",
    "AugMix",
    "AutoAugment",
    "RandAugment",
    "RandomAutocontrast",
    "RandomEqualize",
    "RandomErasing",
    "RandomGrayscale",
    "RandomInvert",
    "RandomPerspective",
    "RandomPhotometricDistort",
    "RandomVerticalFlip",
    "TrivialAugmentWide",
]
"""All but the first two are transforms of torchvision.transforms.v2."""

Backend = Literal["ray", "serial"]
Compensation = Literal["gram", "none"]
SurvivorCompensation = Literal["sequential", "search"]
Head = Literal["keep", "new"]
RetrainStart = Literal["keep", "rewind_weights", "rewind_learning_rate", "anew"]
CostName = Literal["macs", "params", "bytes", "latency_ms"]
CriterionName = Literal[
    "elimination",
    "l1",
    "l2",
    "mean_activation",
    "zeros",
    "batch_norm_scale",
    "taylor",
    "oracle",
    "obd",
    "synflow",
    "random",
]
RecipeName = Literal["sgd", "adamw"]
TaskName = Literal["classification", "binary", "multilabel", "segmentation", "regression", "like_teacher"]
MetricName = Literal["mcr", "balanced"]
FitnessName = Literal["errors", "divergence"]
FitnessChoice = Literal["auto", FitnessName]
Scope = Literal["local", "global"]
RoundSection = Literal["space", "search", "retrain"]
StrideSharing = Literal["input_map", "layer", "kernel"]
Precision = Literal["float32", "bfloat16"]

AlgorithmChoice = Annotated[str, PluginName(ALGORITHMS, get_args(AlgorithmName))]
CostChoice = Annotated[str, PluginName(COSTS, get_args(CostName))]
CriterionChoice = Annotated[str, PluginName(CRITERIA, ("auto", *get_args(CriterionName)))]
TaskChoice = Annotated[str, PluginName(TASKS, get_args(TaskName))]
RecipeChoice = Annotated[str, PluginName(RECIPES, get_args(RecipeName))]
