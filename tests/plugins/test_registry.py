"""The registry: names, references, and its messages."""

import sys
from pathlib import Path

import pytest

from evoprune.errors import ConfigError
from evoprune.plugins.registry import Description, Registry


@pytest.fixture
def registry() -> Registry:
    """A registry with one plug-in of evoprune's and one of the user's."""
    registry = Registry("criterion", "criteria", "search.criterion", ConfigError)
    registry.register("l1")(_built_in())
    registry.register("mine")(mine)
    return registry


def mine() -> None:
    """The user's.

    More of it.
    """


def _built_in() -> type:
    return type("L1", (), {"__module__": "evoprune.criteria.l1", "__doc__": "Mean absolute weight."})


def test_names_and_descriptions(registry: Registry) -> None:
    assert registry.names == ("l1", "mine")
    assert registry.describe() == [Description("l1", "Mean absolute weight."), Description("mine", "The user's.")]


def test_found_by_name_and_by_module(registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "plugins_registry_own.py").write_text("class Outer:\n    inner = 5\n")
    monkeypatch.chdir(tmp_path)
    assert registry.find("mine") is mine
    assert registry.find("plugins_registry_own:Outer.inner") == 5
    sys.modules.pop("plugins_registry_own")


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        (
            "mines",
            "search.criterion: there is no criterion 'mines'; the nearest is mine; `evoprune list criteria` lists "
            "them, and module:attribute names one of your own",
        ),
        (
            "zzz",
            "search.criterion: there is no criterion 'zzz'; `evoprune list criteria` lists them, and module:attribute "
            "names one of your own",
        ),
        (
            "tests.plugins.test_registry:missing",
            "search.criterion: 'tests.plugins.test_registry:missing': 'tests.plugins.test_registry' has no 'missing'; "
            "name an attribute that it has",
        ),
        (":mine", "search.criterion must be module:attribute, as in my_package.my_module:make, not ':mine'"),
    ],
)
def test_an_unknown_name(registry: Registry, reference: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        registry.find(reference)
    assert str(caught.value) == message


@pytest.mark.parametrize("name", ["", "L1", "my:l1", "1st", "a b", 5])
def test_names_that_cannot_be_registered(registry: Registry, name: str) -> None:
    with pytest.raises(ConfigError, match="the name of a criterion must be lowercase letters"):
        registry.register(name)


def test_a_name_belongs_to_one_plug_in(registry: Registry) -> None:
    with pytest.raises(ConfigError, match=r"the criterion 'l1' is registered already, by evoprune\.criteria\.l1:L1;"):
        registry.register("l1")(mine)
    registry.register("l1")(_built_in())  # the same one once more, as when a notebook's cell is run again
    assert registry.find("mine") is mine


def test_how_a_config_names_it(registry: Registry) -> None:
    assert registry.reference("l1") == "l1"
    assert registry.reference("l3") == "l3"
    assert registry.reference("any_module:any") == "any_module:any"
    assert registry.reference("mine") == f"{__name__}:mine"
    assert registry.reference(mine) == f"{__name__}:mine"


@pytest.mark.parametrize("make", [lambda: lambda: 5, lambda: _built_in(), object])
def test_an_object_that_cannot_be_imported_by_name(registry: Registry, make: object) -> None:
    with pytest.raises(ConfigError, match="a criterion must be a function or class at the top level of a module"):
        registry.reference(make() if callable(make) else make)
