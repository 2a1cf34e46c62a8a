"""The schema of a study's YAML, and its networks as experiments."""

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from evoprune.config.fields import Mark
from evoprune.config.loading import config_from_dict, read_mapping, validated
from evoprune.config.marks import keys_with
from evoprune.config.schema import Config
from evoprune.errors import ConfigError


class StudyConfig(BaseModel):
    """A comparison of every method on every network at every target with every seed."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    name: str = Field(..., description="name of the study", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")
    base: dict[str, Any] = Field(..., description="an experiment's sections: data, train, search, retrain")
    networks: dict[str, dict[str, Any]] = Field(
        ..., description="name: an experiment's sections, as model", min_length=1
    )
    targets: tuple[float, ...] = Field(..., description="shares of the whole network's cost", min_length=1)
    seeds: tuple[int, ...] = Field((0, 1, 2), description="of searches and retraining", min_length=1)
    variants: dict[str, dict[str, Any]] = Field(
        {}, description="by name, keys of the section search: methods of one's own"
    )
    steps: int = Field(2, description="rounds of methods with a schedule, which share retrain.epochs", ge=2)
    methods: tuple[str, ...] = Field(..., description="what is compared", min_length=1)
    uncompensated_seeds: tuple[int, ...] = Field(
        (), description="seeds with which all is done without compensation, too"
    )


def load_study(path: Path) -> StudyConfig:
    """Reads and validates a study's YAML.

    Raises:
        ConfigError: one line with the first fault.
    """
    study = validated(StudyConfig, read_mapping(path, "a study's YAML"), source=str(path))
    shared = {key.removeprefix("search.") for key in keys_with(Mark.SAME_IN_STUDY)}
    for own, keys in study.variants.items():
        if alike := sorted(shared & keys.keys()):
            raise ConfigError(
                f"{path}: variants.{own} must not have {', '.join(alike)}, since all methods of a study are "
                "judged alike; write it under base.search, or leave it out"
            )
    for name in study.networks:
        if not network_config(study, name, str(path)).model.is_trained:
            raise ConfigError(
                f"{path}: networks.{name} must have model.weights, of a trained network, and model.head keep"
            )
        for variant in (None, *study.variants):
            if network_config(study, name, str(path), variant).search.in_rounds:
                place = f"networks.{name}" if variant is None else f"variants.{variant}"
                raise ConfigError(f"{path}: {place} must have no search.rounds or steps; name a method with a schedule")
    return study


def network_config(study: StudyConfig, name: str, source: str = "study", variant: str | None = None) -> Config:
    """The experiment of one of the study's networks.

    Args:
        study: the study.
        name: name of the network in it.
        source: of the study, for messages.
        variant: the search's settings; None: those of the network.

    Raises:
        ConfigError: the sections do not make an experiment.
    """
    sections: dict[str, Any] = {"name": name, "search": {}} | {key: dict(value) for key, value in study.base.items()}
    for section, values in study.networks[name].items():
        sections[section] = sections.get(section, {}) | values
    searched = study.variants[variant] if variant is not None else {}
    sections["search"] = sections["search"] | {"target_cost": list(study.targets)} | searched
    place = f"networks.{name}" if variant is None else f"variants.{variant}"
    return config_from_dict(sections, source=f"{source}: {place}")
