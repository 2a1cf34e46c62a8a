"""The house: imports point down and never in a circle, and heavy libraries stay in their rooms."""

import ast
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import evoprune

PACKAGE = Path(evoprune.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))

# Rooms on one floor may import each other; a floor may import the floors before it.
FLOORS = (
    {"errors", "progress"},
    {"plugins"},
    {"config"},
    {"tasks"},
    {"space", "networks"},
    {"discovery", "data"},
    {"surgery", "training"},
    {"latency", "costs", "criteria"},
    {"scoring"},
    {"workers"},
    {"search"},
    {"record"},
    {"report"},
    {"pipeline"},
    {"bench"},
    {"cli"},
    {"__main__"},
)
LEVELS = {room: level for level, rooms in enumerate(FLOORS) for room in rooms}
LOOSE = {"__init__", "__main__", "errors", "progress"}

ROOMS_OF_LIBRARIES = {
    "ray": ("workers/",),
    "deap": ("search/",),
    "pandas": ("record/", "report/", "bench/"),
    "matplotlib": ("report/", "bench/"),
    "plotly": ("report/",),
    "jinja2": ("report/",),
    "tensorboard": ("record/tensorboard.py",),
}
HEAVY = ("torch", "torchvision", "ray", "pandas", "deap", "pyarrow", "matplotlib", "plotly", "jinja2")


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_modules(path: Path) -> Iterator[str]:
    """Every module that a file imports, at any depth; `from a import b` gives a and a.b."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: imports are absolute here"
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_down(path: Path) -> None:
    if path == PACKAGE / "__init__.py":
        return  # The public face names rooms of every floor.
    assert room(path) in LEVELS, f"give {room(path)} a floor"
    for module in imported_modules(path):
        package, _, inside = module.partition(".")
        other = inside.split(".")[0]
        if package == "evoprune" and other in LEVELS:
            assert LEVELS[other] <= LEVELS[room(path)], f"{room(path)} imports {module}, which is above it"


def test_only_the_listed_files_lie_outside_of_rooms() -> None:
    assert {path.stem for path in PACKAGE.glob("*.py")} == LOOSE


def test_no_file_name_is_in_two_rooms() -> None:
    counts = Counter(path.name for path in FILES if path.name not in ("__init__.py", "__main__.py"))
    assert [name for name, count in counts.items() if count > 1] == []


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def circles(imports: dict[str, set[str]]) -> list[list[str]]:
    """Groups of modules that import each other in a circle."""
    sorter = TopologicalSorter(imports)
    try:
        sorter.prepare()
    except CycleError as error:
        return [error.args[1]]
    return []


def test_no_file_imports_itself_over_others() -> None:
    """Imports inside of functions and for type checkers count, too. The public face stands outside."""
    modules = {module_name(path): path for path in FILES if path != PACKAGE / "__init__.py"}
    imports = {
        name: {module for module in imported_modules(path) if module in modules and module != name}
        for name, path in modules.items()
    }
    assert circles(imports) == []
    assert sum(map(len, imports.values())) > 500  # they were seen


def test_a_circle_is_found() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}}) != []
    assert circles({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_libraries_stay_in_their_rooms(path: Path) -> None:
    place = path.relative_to(PACKAGE).as_posix()
    for module in imported_modules(path):
        rooms = ROOMS_OF_LIBRARIES.get(module.partition(".")[0])
        assert rooms is None or place.startswith(rooms), f"{place} imports {module}, which belongs in {rooms}"


def loaded_after(code: str) -> set[str]:
    """The heavy libraries that a fresh interpreter has loaded when the code has run."""
    report = f"\nimport sys\nprint([name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code + report], capture_output=True, text=True, check=True)
    return set(ast.literal_eval(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize(
    "module", ["evoprune", "evoprune.config.schema", "evoprune.errors", "evoprune.plugins.kinds", "evoprune.cli.main"]
)
def test_light_modules_load_no_heavy_library(module: str) -> None:
    assert loaded_after(f"import {module}") == set()


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["run", "nowhere.yaml"], ["help", "config"]])
def test_help_and_complaints_load_no_heavy_library(arguments: list[str]) -> None:
    code = (
        f"from typer.testing import CliRunner\nfrom evoprune.cli.main import app\nCliRunner().invoke(app, {arguments})"
    )
    assert loaded_after(code) == set()


def test_public_names_are_listed_and_found() -> None:
    assert set(evoprune.__all__) <= set(dir(evoprune))
    assert [name for name in evoprune.__all__ if not hasattr(evoprune, name)] == []


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'evoprune' has no attribute 'prune'"):
        _ = evoprune.prune  # type: ignore[attr-defined]


def test_contributing_names_the_rooms_from_top_to_bottom() -> None:
    text = (PACKAGE.parent / "CONTRIBUTING.md").read_text(encoding="utf-8")
    listed = text.partition("From the top: ")[2].partition(".")[0]
    named = [name.strip(" `\n") for name in listed.split(",")]
    rooms = {one for floor in FLOORS for one in floor} - {"errors", "progress", "__main__"}
    assert sorted(named) == sorted(rooms)
    assert [LEVELS[name] for name in named] == sorted((LEVELS[name] for name in named), reverse=True)
