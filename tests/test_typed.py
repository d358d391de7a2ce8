"""Every branch of the door between a config file and a family's dataclass."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import pytest

from genjax_zoo.contract import ConfigError
from genjax_zoo.typed import RENAMED, Range, choose, config, nearest, number, typed


@dataclasses.dataclass(frozen=True)
class Inner:
    width: int = 8

    def __post_init__(self):
        if self.width < 1:
            raise ConfigError(f"width should be positive, got {self.width}.")


@dataclasses.dataclass(frozen=True)
class Outer:
    rate: float
    kind: Literal["fast", "slow"] = "fast"
    level: Literal[1, 2] = 1
    widths: tuple[int, ...] = (3, 4)
    pair: tuple[int, str] = (1, "a")
    inner: Inner = dataclasses.field(default_factory=Inner)
    maybe: int | None = None
    nothing: None = None
    table: dict = dataclasses.field(default_factory=dict)
    counts: Mapping[str, int] = dataclasses.field(default_factory=dict)
    anything: Any = None
    flag: bool = False
    name: str = ""


def test_the_defaults_are_kept():
    assert typed(Outer, {"rate": 0.5}) == Outer(rate=0.5)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"rate": 1}, {"rate": 1.0}),
        ({"kind": "slow"}, {"kind": "slow"}),
        ({"level": 2}, {"level": 2}),
        ({"widths": [5, 6, 7]}, {"widths": (5, 6, 7)}),
        ({"widths": ()}, {"widths": ()}),
        ({"pair": [2, "b"]}, {"pair": (2, "b")}),
        ({"inner": {"width": 2}}, {"inner": Inner(2)}),
        ({"inner": Inner(3)}, {"inner": Inner(3)}),
        ({"maybe": 4}, {"maybe": 4}),
        ({"maybe": None}, {"maybe": None}),
        ({"nothing": None}, {"nothing": None}),
        ({"table": {"a": [1]}}, {"table": {"a": [1]}}),
        ({"counts": {"a": 1}}, {"counts": {"a": 1}}),
        ({"anything": object}, {"anything": object}),
        ({"flag": True}, {"flag": True}),
        ({"name": "x"}, {"name": "x"}),
    ],
)
def test_values_that_fit(fields, expected):
    built = typed(Outer, {"rate": 1.0, **fields})
    for name, value in expected.items():
        assert getattr(built, name) == value
        assert type(getattr(built, name)) is type(value)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({}, ["config.rate is missing", "float"]),
        ({"rate": "fast"}, ["config.rate should be float", "'fast' (str)"]),
        ({"rate": True}, ["config.rate should be float", "True (bool)"]),
        ({"rate": 1.0, "widht": 1}, ["'widht'", "Known: ", "widths"]),
        ({"rate": 1.0, "kind": "fsat"}, ["config.kind", "Did you mean 'fast'?", "fast, slow"]),
        ({"rate": 1.0, "kind": 3}, ["config.kind", "one of 'fast', 'slow'", "got 3"]),
        ({"rate": 1.0, "level": 3}, ["config.level", "one of 1, 2"]),
        ({"rate": 1.0, "widths": 3}, ["config.widths", "tuple[int, ...]", "got 3"]),
        ({"rate": 1.0, "widths": [1, "2"]}, ["config.widths[1] should be int", "'2' (str)"]),
        ({"rate": 1.0, "pair": [1, 2]}, ["config.pair[1] should be str"]),
        ({"rate": 1.0, "pair": [1]}, ["config.pair", "tuple[int, str]"]),
        ({"rate": 1.0, "inner": {"wdith": 1}}, ["config.inner", "Did you mean 'width'?"]),
        ({"rate": 1.0, "inner": {"width": 0}}, ["width should be positive, got 0"]),
        ({"rate": 1.0, "inner": 3}, ["config.inner should be Inner", "got 3"]),
        ({"rate": 1.0, "maybe": "x"}, ["config.maybe", "int | None"]),
        ({"rate": 1.0, "nothing": 1}, ["config.nothing", "NoneType"]),
        ({"rate": 1.0, "table": []}, ["config.table should be dict"]),
        ({"rate": 1.0, "flag": 1}, ["config.flag should be bool"]),
        ({"rate": 1.0, "name": 1}, ["config.name should be str"]),
        ({"rate": 1.0, "maybe": True}, ["config.maybe", "True (bool)"]),
    ],
)
def test_values_that_do_not(fields, says):
    with pytest.raises(ConfigError) as error:
        typed(Outer, fields)
    for words in says:
        assert words in str(error.value)
    assert str(error.value).endswith(".")


def test_nearest_names_the_nearest_and_lists_all():
    assert nearest("vea", ["vae", "gan"], "model") == (
        "unknown model 'vea'. Did you mean 'vae'? Known: gan, vae."
    )


def test_nearest_does_not_guess_wildly():
    assert nearest("zzz", ["vae"], "model") == "unknown model 'zzz'. Known: vae."


def test_nearest_among_none():
    assert nearest("x", [], "variant") == "unknown variant 'x'. Known: (none)."


def test_choose():
    assert choose("a", {"a": 1}, "thing") == 1
    with pytest.raises(ConfigError, match="unknown thing 'b'"):
        choose("b", {"a": 1}, "thing")


def test_an_old_name_is_told_the_new_one():
    old, new = next(iter(RENAMED.items()))
    assert nearest(old, [new, old + "s"], "field") == (
        f"unknown field {old!r}. Since version 0.2.0 it is called {new!r}. "
        f"Known: {', '.join(sorted([new, old + 's']))}."
    )
    # Where nothing is called that, it is a name like any other.
    assert "0.2.0" not in nearest(old, ["vae"], "field")


# ------------------------------------------------------------------------------ declared ranges


@config
class Ranged:
    """Numbers in their ranges."""

    least: int = number(1, least=1)
    above: float = number(0.5, above=0)
    both: float = number(0.5, above=0, below=1)
    closed: float = number(0.0, least=0, most=1)
    most: int = number(3, most=3)
    below: float = number(0.0, below=3)
    maybe: int | None = number(None, least=0)
    widths: tuple[int, ...] = number((200, 200), least=1)
    free: int = -7
    pair: tuple[float, float] = (0.0, 1.0)
    seed: int = number(0, least=0, below=2**32)
    kind: Literal["mlp", "conv"] = "mlp"
    flag: bool = False
    nested: tuple[tuple[int, ...], ...] = number(((3,), (4, 5)), least=1)

    def __post_init__(self):
        if self.free == 13:
            raise ConfigError("ranged: free should not be 13.")


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"least": 1, "above": 1e-9, "both": 0.999, "closed": 0.0, "most": -5, "below": 2.9},
        {"closed": 1.0, "maybe": None, "widths": ()},
        {"maybe": 0, "widths": (1,), "free": -100},
        {"closed": 1e-300, "both": 1e-37, "above": 3e38},
        {"seed": 2**32 - 1, "least": 10**9, "kind": "conv"},
    ],
)
def test_numbers_within_their_ranges(fields):
    made = Ranged(**fields)
    assert made == typed(Ranged, fields)
    for name, value in fields.items():
        assert getattr(made, name) == value


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"least": 0}, "least should be at least 1, got 0."),
        ({"above": 0.0}, "above should be positive, got 0.0."),
        ({"both": 1.0}, "both should be in (0, 1), got 1.0."),
        ({"both": 0.0}, "both should be in (0, 1), got 0.0."),
        ({"closed": 1.5}, "closed should be in [0, 1], got 1.5."),
        ({"most": 4}, "most should be at most 3, got 4."),
        ({"below": 3.0}, "below should be below 3, got 3.0."),
        ({"maybe": -1}, "maybe should be not negative, got -1."),
        ({"widths": (3, 0)}, "widths should be at least 1, got 0."),
        ({"above": float("nan")}, "above should be positive, got nan."),
        ({"above": float("-inf")}, "above should be positive, got -inf."),
        # Neither lies in any range, declared or not.
        ({"above": float("inf")}, "above should be positive, got inf."),
        ({"below": float("-inf")}, "below should be below 3, got -inf."),
        ({"below": 10**400}, "below should be below 3, got inf."),
        # Nor does what is lost in float32.
        ({"above": 1e300}, "above should be positive, got 1e+300, which is inf in float32."),
        ({"above": 1e-300}, "above should be positive, got 1e-300, which is 0 in float32."),
        (
            {"both": 0.99999999999},
            "both should be in (0, 1), got 0.99999999999, which is 1 in float32.",
        ),
        (
            {"pair": (0.0, -1e39)},
            "pair should be a finite number, got -1e+39, which is -inf in float32.",
        ),
        ({"pair": (float("nan"), 1.0)}, "pair should be a finite number, got nan."),
        ({"pair": (0.0, float("inf"))}, "pair should be a finite number, got inf."),
        # jax counts in 32 bits.
        ({"least": 10**12}, "least should be at most 1000000000, got 1000000000000."),
        ({"free": 10**9 + 1}, "free should be at most 1000000000, got 1000000001."),
        ({"widths": (10**9 + 1,)}, "widths should be at most 1000000000, got 1000000001."),
        ({"seed": 2**32}, "seed should be in [0, 4294967296), got 4294967296."),
        ({"nested": ((3,), (4, 0))}, "nested should be at least 1, got 0."),
    ],
)
def test_numbers_out_of_their_ranges(fields, says):
    for make in (lambda: Ranged(**fields), lambda: typed(Ranged, fields)):
        with pytest.raises(ConfigError) as error:
            make()
        assert str(error.value) == f"test_typed: {says}"


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        (
            {"kind": "cnn"},
            "unknown value of test_typed.kind: 'cnn'. Did you mean 'conv'? Known: conv, mlp.",
        ),
        ({"kind": 3}, "test_typed.kind should be one of 'mlp', 'conv', got 3 (int)."),
        ({"least": "8"}, "test_typed.least should be int, got '8' (str)."),
        ({"least": 8.0}, "test_typed.least should be int, got 8.0 (float)."),
        ({"least": True}, "test_typed.least should be int, got True (bool)."),
        ({"above": "1e-3"}, "test_typed.above should be float, got '1e-3' (str)."),
        ({"widths": 200}, "test_typed.widths should be tuple[int, ...], got 200 (int)."),
        ({"widths": "200"}, "test_typed.widths should be tuple[int, ...], got '200' (str)."),
        ({"widths": (200, "8")}, "test_typed.widths[1] should be int, got '8' (str)."),
        ({"pair": (1.0,)}, "test_typed.pair should be tuple[float, float], got (1.0,) (tuple)."),
        ({"flag": "no"}, "test_typed.flag should be bool, got 'no' (str)."),
        ({"least": None}, "test_typed.least should be int, got None (NoneType)."),
    ],
)
def test_a_config_that_is_made_by_hand_checks_its_types(fields, says):
    with pytest.raises(ConfigError) as error:
        Ranged(**fields)
    assert str(error.value) == says


def test_what_has_another_form_of_its_type_takes_the_declared_one():
    made = Ranged(
        widths=[3, 4], nested=[[3], [4]], above=1, least=np.int64(5), both=np.float32(0.5)
    )
    assert made == Ranged(widths=(3, 4), nested=((3,), (4,)), above=1.0, least=5, both=0.5)
    assert isinstance(hash(made), int)
    assert [type(each) for each in (made.above, made.least, made.both)] == [float, int, float]


def test_a_config_is_frozen_and_keeps_its_own_check():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Ranged().least = 2
    with pytest.raises(ConfigError, match="free should not be 13"):
        Ranged(free=13)
    with pytest.raises(ConfigError, match="least should be"):
        dataclasses.replace(Ranged(), least=0)


@pytest.mark.parametrize(
    ("allowed", "words"),
    [
        (Range(least=2), "at least 2"),
        (Range(above=2), "above 2"),
        (Range(most=2), "at most 2"),
        (Range(below=0.5), "below 0.5"),
        (Range(least=0), "not negative"),
        (Range(above=0), "positive"),
        (Range(least=0, below=1), "in [0, 1)"),
        (Range(above=0, most=1), "in (0, 1]"),
        (Range(least=1, most=1000000), "in [1, 1000000]"),
        (Range(), "a finite number"),
    ],
)
def test_a_range_in_words(allowed, words):
    assert str(allowed) == words


def test_what_stands_for_nothing_is_no_name_that_is_known():
    assert nearest("slrm", ["", "auto", "slurm"], "x").endswith("Known: auto, slurm.")
