"""Config files in; frozen objects or one-line complaints out."""

import shlex
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import evoprune as ep
from evoprune.config.complaints import known_keys
from evoprune.config.loading import (
    config_from_dict,
    dump_config,
    load_config,
    parse_override,
    refuse_untrusted,
    repeated,
    trusted_keys,
)
from evoprune.config.schema import Config
from evoprune.config.strict_yaml import read_yaml, write_yaml
from evoprune.errors import ConfigError
from evoprune.plugins.kinds import CRITERIA

EXPERIMENTS = Path(__file__).parent.parent.parent / "experiments"
CONFIGS = sorted(path for path in EXPERIMENTS.glob("*.yaml") if not path.stem.startswith(("study_", "curve_")))


def write(folder: Path, text: str) -> Path:
    path = folder / "x.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def complaint(path: Path, overrides: dict[str, object] | None = None) -> str:
    """The complaint about a config, with the file's folder taken off."""
    with pytest.raises(ConfigError) as caught:
        load_config(path, overrides)
    message = str(caught.value)
    assert "\n" not in message
    return message.removeprefix(f"{path.parent}/")


def test_defaults_are_those_of_the_design() -> None:
    config = config_from_dict({"name": "a"})
    assert (config.seed, config.device) == (0, "auto")
    assert (config.data.dataset, config.data.validation, config.data.calibration) == ("mnist5k", 1000, 256)
    assert (config.train.epochs, config.train.batch_size, config.train.learning_rate) == (5, 64, 0.05)
    assert (config.search.population, config.search.generations, config.search.tolerance) == (24, 8, 0.02)
    assert (config.search.algorithm, config.search.cost, config.search.compensation) == (
        "widths",
        "macs",
        "gram",
    )
    assert (config.space.feature_maps, config.space.kernels, config.space.strides) == (True, False, False)
    assert (config.workers.backend, config.workers.count, config.workers.address) == ("ray", "auto", None)
    assert (config.retrain.survivors, config.retrain.epochs, config.retrain.learning_rate) == (3, 2, 0.02)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_experiment_loads_and_is_named_as_its_file(path: Path) -> None:
    assert load_config(path).name == path.stem


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_dumped_config_reads_back_equal(path: Path, tmp_path: Path) -> None:
    config = load_config(path)
    assert load_config(write(tmp_path, dump_config(config))) == config


@settings(deadline=None)
@given(rate=st.floats(min_value=0, max_value=1000, exclude_min=True))
def test_every_learning_rate_survives_the_dump(rate: float) -> None:
    key, value = parse_override(f"train.learning_rate={rate!r}")
    config = config_from_dict({"name": "a"}, {key: value})
    assert config.train.learning_rate == rate
    assert config_from_dict(read_yaml(dump_config(config))) == config  # type: ignore[arg-type]


BAD = {
    "misspelt": (
        "name: a\nsearch: {tolerence: 0.1}",
        "x.yaml: unknown key 'search.tolerence' (did you mean 'search.tolerance'?)",
    ),
    "misspelt section": (
        "name: a\nserch: {tolerance: 0.1}",
        "x.yaml: unknown key 'serch' (did you mean 'search'?)",
    ),
    "in no section": (
        "name: a\npopulation: 8",
        "x.yaml: unknown key 'population' (did you mean 'search.population'?)",
    ),
    "in another section": (
        "name: a\nsearch: {survivors: 8}",
        "x.yaml: unknown key 'search.survivors' (did you mean 'retrain.survivors'?)",
    ),
    "key is no text": ("name: a\ntrue: 8", "x.yaml: unknown key 'true' (did you mean 'train'?)"),
    "percent": (
        "name: a\nsearch: {tolerance: 4}",
        "x.yaml: search.tolerance must be between 0 and 1 (a fraction: 0.02 is two percentage points), not 4",
    ),
    "quoted number": (
        'name: a\ntrain: {epochs: "5"}',
        'x.yaml: train.epochs must be a whole number from 1 to 10,000, not "5"',
    ),
    "bool for a number": (
        "name: a\ntrain: {epochs: true}",
        "x.yaml: train.epochs must be a whole number from 1 to 10,000, not true",
    ),
    "number for a bool": (
        "name: a\nspace: {kernels: 1}",
        "x.yaml: space.kernels must be true or false, not 1",
    ),
    "float for a whole number": (
        "name: a\ntrain: {epochs: 5.0}",
        "x.yaml: train.epochs must be a whole number from 1 to 10,000, not 5.0",
    ),
    "not a number": (
        "name: a\ntrain: {learning_rate: .nan}",
        "x.yaml: train.learning_rate must be a number above 0 and at most 1,000, not NaN",
    ),
    "zero learning rate": (
        "name: a\nretrain: {learning_rate: 0}",
        "x.yaml: retrain.learning_rate must be a number above 0 and at most 1,000, not 0",
    ),
    "no choice": (
        "name: a\nsearch: {cost: flops}",
        "x.yaml: search.cost must be one of macs, params, bytes, latency_ms, or module:attribute for one of your own, "
        'not "flops"',
    ),
    "no worker": (
        "name: a\nworkers: {count: 0}",
        "x.yaml: workers.count must be a whole number from 1 to 10,000, or auto, not 0",
    ),
    "worker count in words": (
        "name: a\nworkers: {count: many}",
        'x.yaml: workers.count must be a whole number from 1 to 10,000, or auto, not "many"',
    ),
    "augmentation": (
        "name: a\ndata: {augment: [crop, flop]}",
        "x.yaml: data.augment must be a list of any of crop, flip, AugMix, AutoAugment, RandAugment, "
        "RandomAutocontrast, RandomEqualize, RandomErasing, RandomGrayscale, RandomInvert, RandomPerspective, "
        'RandomPhotometricDistort, RandomVerticalFlip, TrivialAugmentWide, not ["crop", "flop"]',
    ),
    "device": (
        "name: a\ndevice: gpu",
        'x.yaml: device must be auto, cpu, cuda or cuda:N, not "gpu"',
    ),
    "section without keys": (
        "name: a\nretrain:",
        "x.yaml: retrain must be a section with keys of its own (survivors, epochs, learning_rate, "
        "batch_size, momentum, weight_decay, precision, distillation, temperature, start, compensation, recipe, "
        "ema), not null",
    ),
    "nothing to search": (
        "name: a\nspace: {feature_maps: false}",
        "x.yaml: space must have at least one of feature_maps, kernels and strides true: there is nothing to search",
    ),
    "name of another folder": (
        "name: ../a",
        "x.yaml: name must be up to 100 letters, digits, '.', '_' and '-', with a letter or digit first, not \"../a\"",
    ),
    "no name": (
        "seed: 1",
        "x.yaml: name is missing; write `name: ...` (name of the run, and of its folder in results/)",
    ),
    "three mistakes, the unknown key first": (
        "name: a\nsearch: {tolerance: 4, generation: 3}\ntrain: {epochs: no}",
        "x.yaml: unknown key 'search.generation' (did you mean 'search.generations'?) (and 2 more)",
    ),
    "long value": (
        f"name: a\ndevice: {'gpu' * 40}",
        f'x.yaml: device must be auto, cpu, cuda or cuda:N, not "{("gpu" * 40)[:56]}...',
    ),
    "key twice": (
        "name: a\nseed: 1\nseed: 2",
        'x.yaml: not valid YAML: line 3, column 1: duplicate key "seed"',
    ),
    "broken YAML": (
        "name: a\ntrain: {epochs: 5",
        "x.yaml: not valid YAML: line 2, column 18: expected ',' or '}', but got '<stream end>'",
    ),
    "code in YAML": (
        "name: !!python/object/apply:os.getcwd []",
        "x.yaml: not valid YAML: line 1, column 7: could not determine a constructor for the tag "
        "'tag:yaml.org,2002:python/object/apply:os.getcwd'",
    ),
    "empty": ("", "x.yaml: is empty; write `name: ...` and each key that differs from its default"),
    "a date": (
        "2024-01-01",
        "x.yaml: must be a mapping of keys to values, not a single value; write `name: ...` and each key that differs "
        "from its default",
    ),
    "50 MB": ("name: " + "a" * 50_000_000, "x.yaml: not valid YAML: it has more than 100,000 characters"),
    "aliases of aliases": (
        "a: &a [x,x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b,*b]\n"
        "d: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c,*c]\ne: [*d,*d,*d,*d,*d,*d,*d,*d,*d,*d]",
        "x.yaml: not valid YAML: it stands for more than 100,000 values; write it without aliases (&, *)",
    ),
    "an alias of itself": ("name: &a [*a]", "x.yaml: not valid YAML: it is nested too deeply"),
    "nested deeply": ("name: " + "[" * 5000, "x.yaml: not valid YAML: it is nested too deeply"),
    "a control character": (
        "name: a\x1b[2J",
        "x.yaml: not valid YAML: unacceptable character #x001b: special characters are not allowed at position 7",
    ),
    "an error of the YAML library": ("name: !!int ''", "x.yaml: not valid YAML: string index out of range"),
    "YAML 1.1 boolean": (
        "name: a\nspace: {kernels: yes}",
        'x.yaml: space.kernels must be true or false, not "yes"',
    ),
    "a list": (
        "- name: a",
        "x.yaml: must be a mapping of keys to values, not a list; write `name: ...` and each key that differs from its "
        "default",
    ),
}


@pytest.mark.parametrize(("text", "expected"), BAD.values(), ids=BAD.keys())
def test_a_bad_file_is_named_with_place_value_and_remedy(text: str, expected: str, tmp_path: Path) -> None:
    assert complaint(write(tmp_path, text)) == expected


BAD_OVERRIDES = {
    "misspelt": (
        {"search.populaton": 8},
        "--set: unknown key 'search.populaton' (did you mean 'search.population'?)",
    ),
    "misspelt section": (
        {"serch.population": 8},
        "--set: unknown key 'serch.population' (did you mean 'search.population'?)",
    ),
    "too deep": (
        {"search.population.size": 8},
        "--set: unknown key 'search.population.size' (did you mean 'search.population'?)",
    ),
    "wrong type": (
        {"search.population": "many"},
        '--set: search.population must be a whole number from 4 to 100,000, not "many"',
    ),
    "unknown inside a section": (
        {"search": {"tolerence": 0.1}},
        "--set: unknown key 'search.tolerence' (did you mean 'search.tolerance'?)",
    ),
}


@pytest.mark.parametrize(("overrides", "expected"), BAD_OVERRIDES.values(), ids=BAD_OVERRIDES.keys())
def test_a_bad_override_is_blamed_on_set(overrides: dict[str, object], expected: str, tmp_path: Path) -> None:
    assert complaint(write(tmp_path, "name: a"), overrides) == expected


def test_overrides_win_and_leave_their_neighbours(tmp_path: Path) -> None:
    path = write(tmp_path, "name: a\nsearch: {population: 8, generations: 2}")
    config = load_config(path, {"search.population": 16, "train": {"epochs": 1}, "data.root": tmp_path})
    assert (config.search.population, config.search.generations) == (16, 2)
    assert (config.train.epochs, config.train.batch_size) == (1, 64)
    assert config.data.root == str(tmp_path)


def test_overriding_leaves_the_original_unchanged() -> None:
    data = {"name": "a", "search": {"population": 8}}
    config_from_dict(data, {"search.population": 16})
    assert data == {"name": "a", "search": {"population": 8}}


def test_a_missing_folder_or_binary_file_is_named(tmp_path: Path) -> None:
    assert complaint(tmp_path / "no.yaml") == (
        "no.yaml: config file not found; give the path of an experiment's YAML file"
    )
    (tmp_path / "x.yaml").write_bytes(b"\xff\xfe\x00")
    assert complaint(tmp_path / "x.yaml") == ("x.yaml: not text in UTF-8; give the path of an experiment's YAML file")
    (tmp_path / "folder").mkdir()
    assert complaint(tmp_path / "folder") == (
        "folder: cannot be read (Is a directory); give the path of an experiment's YAML file"
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("search.population=16", ("search.population", 16)),
        ("train.learning_rate=1e-3", ("train.learning_rate", 0.001)),
        ("train.learning_rate=2E4", ("train.learning_rate", 20000.0)),
        ("seed=010", ("seed", 10)),
        ("seed=08", ("seed", 8)),
        ("search.population=016", ("search.population", 16)),
        ("name=no", ("name", "no")),
        ("name=off", ("name", "off")),
        ("name=12:30", ("name", "12:30")),
        ("model.network=16C5-MP2-10", ("model.network", "16C5-MP2-10")),
        ("data.augment=[crop, flip]", ("data.augment", ["crop", "flip"])),
        ("data.root=null", ("data.root", None)),
        ("data.root=/a=b", ("data.root", "/a=b")),
    ],
)
def test_an_override_is_read_as_yaml(text: str, expected: tuple[str, object]) -> None:
    assert parse_override(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("population", "--set must be KEY=VALUE, as search.population=16, not population"),
        ("=16", "--set must be KEY=VALUE, as search.population=16, not =16"),
        (
            "data.augment=[crop",
            "--set: the value of data.augment is not valid YAML: "
            "line 1, column 6: expected ',' or ']', but got '<stream end>'",
        ),
    ],
)
def test_a_bad_override_text_is_named(text: str, expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_override(text)
    assert str(caught.value) == expected


@pytest.mark.parametrize(
    ("search", "judged_by"),
    [
        ({}, "errors"),
        ({"target_cost": 0.5}, "divergence"),
        ({"target_cost": 0.5, "fitness": "errors"}, "errors"),
        ({"target_cost": 0.5, "algorithm": "genetic"}, "divergence"),
        ({"algorithm": "genetic"}, "errors"),
        ({"fitness": "divergence", "algorithm": "nsga2"}, "divergence"),
    ],
)
def test_the_measure_that_judges_candidates(search: dict[str, object], judged_by: str) -> None:
    assert config_from_dict({"name": "a", "search": search}).search.judged_by == judged_by


def test_a_config_is_frozen() -> None:
    config = config_from_dict({"name": "a"})
    with pytest.raises(ValueError, match="frozen"):
        config.search.population = 3
    assert hash(config) == hash(config_from_dict({"name": "a"}))


def test_every_key_has_a_description() -> None:
    for key, field in known_keys(Config).items():
        assert field.description, key


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
        max_leaves=8,
    ),
    st.sampled_from(sorted(known_keys(Config))),
)
def test_any_value_of_any_key_is_accepted_or_refused_in_one_line(value: object, key: str) -> None:
    complaint = ""
    try:
        config_from_dict({"name": "a"}, {key: value})
    except ConfigError as error:
        complaint = str(error)
    assert len(complaint.splitlines()) <= 1


@given(st.text() | st.binary().map(lambda raw: raw.decode("latin-1")))
@settings(deadline=None)
def test_any_text_is_read_or_refused_in_one_line(text: str) -> None:
    complaint = ""
    try:
        read_yaml(text)
    except ValueError as error:
        complaint = str(error)
    assert len(complaint.splitlines()) <= 1


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(PLAIN)
@settings(deadline=None)
def test_dumped_configs_read_back_equal(value: object) -> None:
    assert read_yaml(write_yaml(value)) == value


@pytest.mark.parametrize(
    ("config", "keys"),
    [
        ({}, {}),
        ({"data": {"dataset": "mine:images"}}, {"data.dataset": "mine:images"}),
        ({"model": {"network": "torchvision:resnet18", "weights": "pretrained"}}, {}),
        ({"model": {"network": "mine:net"}}, {"model.network": "mine:net"}),
        ({"data": {"root": "/images"}}, {"data.root": "/images"}),
        ({"model": {"weights": "w.safetensors"}}, {"model.weights": "w.safetensors"}),
        ({"search": {"algorithm": "mine:Climb"}}, {"search.algorithm": "mine:Climb"}),
        ({"search": {"criterion": "mine:spread"}}, {"search.criterion": "mine:spread"}),
        ({"retrain": {"recipe": "mine:Recipe"}}, {"retrain.recipe": "mine:Recipe"}),
        ({"search": {"rounds": [{"search": {"population": 8}}]}}, {}),
        (
            {"search": {"rounds": [{"search": {"criterion": "mine:spread"}}]}},
            {"search.rounds": ({"search": {"criterion": "mine:spread"}},)},
        ),
        ({"workers": {"address": "auto"}}, {}),
        ({"workers": {"address": "head:6379"}}, {"workers.address": "head:6379"}),
    ],
)
def test_keys_that_are_trusted_only_if_repeated(config: dict[str, object], keys: dict[str, object]) -> None:
    assert trusted_keys(config_from_dict({"name": "a"} | config)) == keys


def test_a_refusal_gives_the_options_to_paste() -> None:
    config = config_from_dict({"name": "a", "data": {"dataset": "mine:images", "root": "/my images"}})
    with pytest.raises(ConfigError) as caught:
        refuse_untrusted(config, Path("a/config.yaml"))
    assert str(caught.value) == (
        "a/config.yaml: data.dataset is mine:images, which would run code, and the run folder may come from somebody "
        "else; if you trust it, name it again: --set data.dataset=mine:images --set 'data.root=/my images'"
    )
    with pytest.raises(ConfigError, match=r"data\.root is /my images, which would read files of yours"):
        refuse_untrusted(config, Path("a/config.yaml"), named={"data.dataset"})
    refuse_untrusted(config, Path("a/config.yaml"), named={"data.dataset", "data.root"})
    refuse_untrusted(config, Path("a/config.yaml"), named={"data.dataset"}, unused={"data.root"})


@given(st.text(min_size=1, max_size=30))
@settings(deadline=None)
def test_pasted_options_are_the_values(value: str) -> None:
    words = shlex.split(repeated({"data.root": value}))
    assert words[0] == "--set"
    assert parse_override(words[1]) == ("data.root", value)


def test_pasted_rounds_are_the_rounds() -> None:
    rounds = ({"search": {"criterion": "mine:it's"}}, {"retrain": {"epochs": 1}})
    words = shlex.split(repeated({"search.rounds": rounds}))
    assert parse_override(words[1]) == ("search.rounds", list(rounds))


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("search.criterion", "tailor", r"not \"tailor\" \(did you mean 'taylor'\?\)"),
        ("search.criterion", "zzz", r"or module:attribute for one of your own, not \"zzz\"$"),
        ("search.criterion", "a:b:c", r"or module:attribute for one of your own, not \"a:b:c\"$"),
        ("search.criterion", "mine:", r"not \"mine:\"$"),
        ("search.criterion", "mine: spread", r"not \"mine: spread\"$"),
        ("search.algorithm", "width", r"must be one of widths, nsga2, .*, or module:attribute .*did you mean 'widths'"),
        ("retrain.recipe", "sdg", r"must be one of sgd, adamw, or module:attribute .*did you mean 'sgd'"),
    ],
)
def test_plug_ins_that_a_config_cannot_name(key: str, value: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config_from_dict({"name": "a"}, {key: value})


def test_a_plug_in_that_is_registered_is_recorded_as_its_module(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CRITERIA, "_entries", dict(CRITERIA._entries))
    ep.criterion("my_own")(my_own)
    config = config_from_dict({"name": "a", "search": {"criterion": "my_own"}})
    assert config.search.criterion == f"{__name__}:my_own"
    assert CRITERIA.find(config.search.criterion) is my_own


def my_own() -> None:
    """A criterion, as far as a config goes."""
