"""The methods that a study compares, by name."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal, cast, get_args

from evoprune.bench.study.study_config import StudyConfig, network_config
from evoprune.bench.study.torch_pruning_choices import IMPORTANCES
from evoprune.config.choices import AlgorithmName, CriterionName, RetrainStart, Scope
from evoprune.config.schedules import Schedule
from evoprune.config.schema import Config, SearchConfig
from evoprune.costs.costs_by_name import COUNTED
from evoprune.errors import ConfigError

TORCH_PRUNING, RANKING, UNSTRUCTURED, SMALL_DENSE = "torch_pruning", "ranking", "unstructured", "small_dense"

SINGLE_WEIGHTS: Mapping[str, CriterionName] = {"magnitude": "l1", "obd": "obd", "synflow": "synflow"}
"""The rankings of single weights in method names, and their criteria."""

SCOPES = get_args(Scope)
SCHEDULES = tuple(name for name in get_args(Schedule) if name != "one_shot")
STARTS = tuple(name for name in get_args(RetrainStart) if name != "keep")

Kind = Literal["search", "torch_pruning", "ranking", "scheduled", "unstructured", "small_dense"]


@dataclass(frozen=True)
class Method:
    """A method, whose name is `kind:by:scope:schedule@start`, with the parts that apply.

    Attributes:
        name: its name in a study.
        kind: kind of method.
        by: the algorithm, variant, importance or criterion.
        scope: how a ranking compares feature maps.
        schedule: of pruning in steps.
        start: weights from which networks are retrained, as `retrain.start`.
        distilled: whether networks are distilled if `retrain` asks for it.
    """

    name: str
    kind: Kind
    by: str = ""
    scope: Scope = "local"
    schedule: Schedule = "one_shot"
    start: RetrainStart = "keep"
    distilled: bool = True

    @property
    def trains_while_choosing(self) -> bool:
        """Whether the choice is more than a genome: networks trained in steps, or masks on single weights."""
        return self.kind in ("scheduled", "unstructured")


def methods_of(study: StudyConfig) -> tuple[Method, ...]:
    """The methods of a study.

    Raises:
        ConfigError: a name is unknown, or a method does not go with the study's other keys.
    """
    methods = tuple(_method(name, study) for name in study.methods)
    for network in study.networks:
        config = network_config(study, network)
        for method in methods:
            _check(method, config, study.steps, f"methods: {method.name}")
    return methods


def _method(name: str, study: StudyConfig) -> Method:
    if name in study.variants:
        return Method(name, "search", by=name)
    base, at, start = name.partition("@")
    method = next((method for method in known_methods() if method.name == base), None)
    can_start = method is not None and not method.trains_while_choosing and method.kind != SMALL_DENSE
    if method is None or (at and not (can_start and start in STARTS)):
        raise ConfigError(
            f"methods: unknown method {name!r}; take some of {', '.join((*study.variants, *_patterns()))}"
        )
    return replace(method, name=name, start=cast(RetrainStart, start) if at else method.start)


def _check(method: Method, config: Config, steps: int, place: str) -> None:
    retrained, trained = config.retrain.epochs, config.train.epochs
    if config.retrain.start != "keep":
        raise ConfigError(
            f"base.retrain.start must be keep here, not {config.retrain.start}; write METHOD@START instead"
        )
    if method.kind == UNSTRUCTURED and config.search.cost != "params":
        raise ConfigError(
            f"{place}: base.search.cost must be params for this method, which saves nothing else, not "
            f"{config.search.cost}"
        )
    if method.kind == "scheduled" and config.search.cost not in COUNTED:
        raise ConfigError(
            f"{place}: base.search.cost must be macs, params or bytes for this method, not {config.search.cost}"
        )
    if method.kind == "scheduled" and retrained % steps:
        raise ConfigError(
            f"{place}: base.retrain.epochs must be a multiple of steps ({steps}), not {retrained}, so that all methods "
            "train for as long"
        )
    if method.start.startswith("rewind") and retrained > trained:
        raise ConfigError(f"{place}: train.epochs must be at least base.retrain.epochs ({retrained}), not {trained}")


def known_methods() -> tuple[Method, ...]:
    """All methods, but for a study's own variants and other starts of retraining."""
    searches = (Method(name, "search", by=name) for name in get_args(AlgorithmName))
    pruners = (
        Method(f"{TORCH_PRUNING}:{by}:{scope}", "torch_pruning", by, scope) for by in IMPORTANCES for scope in SCOPES
    )
    rankings = [
        Method(f"{RANKING}:{by}:{scope}", "ranking", by, scope) for by in get_args(CriterionName) for scope in SCOPES
    ]
    scheduled = (
        Method(f"{one.name}:{schedule}", "scheduled", one.by, one.scope, schedule)
        for one in rankings
        for schedule in SCHEDULES
    )
    unstructured = (
        Method(f"{UNSTRUCTURED}:{by}:{scope}", "unstructured", by, scope) for by in SINGLE_WEIGHTS for scope in SCOPES
    )
    small = (
        Method(SMALL_DENSE, "small_dense", start="anew", distilled=False),
        Method(f"{SMALL_DENSE}:distilled", "small_dense", start="anew"),
    )
    return (*searches, *pruners, *rankings, *scheduled, *unstructured, *small)


def _patterns() -> tuple[str, ...]:
    """The names of all methods in short, for messages."""
    scope = f"({'|'.join(SCOPES)})"
    return (
        *get_args(AlgorithmName),
        f"{TORCH_PRUNING}:({'|'.join(IMPORTANCES)}):{scope}",
        f"{RANKING}:({'|'.join(get_args(CriterionName))}):{scope}[:({'|'.join(SCHEDULES)})]",
        f"{UNSTRUCTURED}:({'|'.join(SINGLE_WEIGHTS)}):{scope}",
        f"{SMALL_DENSE}[:distilled]; searches, {TORCH_PRUNING} and {RANKING} without a schedule also with "
        f"@({'|'.join(STARTS)})",
    )


def searches_of(study: StudyConfig, network: str) -> dict[str, SearchConfig]:
    """The settings of each method that is a search: every algorithm as the network's config has it, and variants."""
    plain = network_config(study, network).search
    algorithms = {name: plain.model_copy(update={"algorithm": name}) for name in get_args(AlgorithmName)}
    return algorithms | {name: network_config(study, network, variant=name).search for name in study.variants}
