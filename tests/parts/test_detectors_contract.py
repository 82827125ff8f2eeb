"""What every detector on the shelf owes, checked over all of them."""

from __future__ import annotations

import inspect
import json
import math
import random
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from premortem.core.detector import Detector, Level
from premortem.core.errors import ConfigError
from premortem.parts import detectors as shelf


def _curve() -> shelf.BaselineCurve:
    detector = shelf.BaselineCurve(patience=20)
    detector.rebase([(0, 3.0), (1000, 2.0)])
    return detector


def _pace() -> shelf.Progress:
    detector = shelf.Progress(window=30)
    detector.rebase([(0, 3.0), (100, 2.5), (1000, 2.0)])
    return detector


FACTORIES: dict[str, Callable[[], Detector]] = {
    "BaselineCurve": _curve,
    "Budget": lambda: shelf.Budget(limit=10.0),
    "ChangePoint": shelf.ChangePoint,
    "Collapse": shelf.Collapse,
    "Exhaustion": lambda: shelf.Exhaustion(limit=10.0),
    "Frozen": shelf.Frozen,
    "Heartbeat": shelf.Heartbeat,
    "LowVariance": shelf.LowVariance,
    "NonFinite": shelf.NonFinite,
    "PageHinkley": shelf.PageHinkley,
    "Plateau": shelf.Plateau,
    "Progress": _pace,
    "Quantile": lambda: shelf.Quantile(baseline=3.0),
    "RatioToBaseline": lambda: shelf.RatioToBaseline(baseline=3.0),
    "RatioToBest": shelf.RatioToBest,
    "Rising": shelf.Rising,
    "Shift": shelf.Shift,
    "Spike": shelf.Spike,
    "Streak": shelf.Streak,
    "Threshold": lambda: shelf.Threshold(yellow=4.0, red=8.0, clear=0.5),
}
every = pytest.mark.parametrize("name", FACTORIES)

values = st.one_of(
    st.floats(allow_nan=True, allow_infinity=True, width=64),
    st.floats(min_value=2.5, max_value=3.5),
    st.sampled_from([0.0, -1.0, math.nan, math.inf, -math.inf, 1e300, 1e-300]),
)


def _feed(detector: Detector, stream: list[float]) -> list[Level | None]:
    return [detector.observe(v) for v in stream]


def _mixed(seed: int, length: int = 700) -> list[float]:
    rng = random.Random(seed)
    stream = [3.0 * math.exp(rng.gauss(0, 0.03)) for _ in range(length)]
    for i in range(0, length, 41):
        stream[i] *= rng.choice([1.2, 3.0, 40.0])
    return stream


def test_every_class_on_the_shelf_is_covered_here() -> None:
    classes = {n for n, c in inspect.getmembers(shelf, inspect.isclass)}
    assert classes == set(FACTORIES)


@every
def test_it_is_a_final_slotted_class_with_numeric_params_and_a_page(name: str) -> None:
    detector = FACTORIES[name]()
    kind = type(detector)
    assert getattr(kind, "__final__", False)
    assert not hasattr(detector, "__dict__")
    assert kind.__doc__
    signature = inspect.signature(kind.__init__)
    parameters = [p for n, p in signature.parameters.items() if n != "self"]
    assert all(p.kind is inspect.Parameter.KEYWORD_ONLY for p in parameters)
    params = detector.params  # type: ignore[attr-defined]
    assert set(params) == {p.name for p in parameters}
    assert all(isinstance(v, (int, float)) for v in params.values())


@every
def test_state_is_plain_numbers_that_survive_json(name: str) -> None:
    detector = FACTORIES[name]()
    _feed(detector, _mixed(1))
    state = detector.state()
    assert all(type(v) is float for v in state.values())
    again = FACTORIES[name]()
    again.load(json.loads(json.dumps(state)))
    assert repr(again.state()) == repr(state)


@every
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), cut=st.integers(0, 600))
def test_a_resumed_detector_goes_on_identically(name: str, seed: int, cut: int) -> None:
    stream = _mixed(seed)
    whole, first, second = (FACTORIES[name]() for _ in range(3))
    expected = _feed(whole, stream)
    before = _feed(first, stream[:cut])
    second.load(first.state())
    assert before + _feed(second, stream[cut:]) == expected
    assert repr(second.state()) == repr(whole.state())


@every
def test_load_raises_key_error_when_a_number_is_missing_and_changes_nothing(name: str) -> None:
    detector = FACTORIES[name]()
    _feed(detector, _mixed(2))
    for lost in detector.state():
        other = FACTORIES[name]()
        before = repr(other.state())
        partial = {k: v for k, v in detector.state().items() if k != lost}
        with pytest.raises(KeyError):
            other.load(partial)
        assert repr(other.state()) == before


@every
@settings(max_examples=60, deadline=None)
@given(stream=st.lists(values, max_size=120))
def test_no_value_ever_crashes_it_and_its_levels_are_levels(name: str, stream: list[float]) -> None:
    detector = FACTORIES[name]()
    levels = _feed(detector, stream + [3.0] * 300)
    assert all(level is None or isinstance(level, Level) for level in levels)


@every
@pytest.mark.parametrize("poison", [math.nan, math.inf, -math.inf])
def test_nan_and_infinity_never_poison_what_comes_after(name: str, poison: float) -> None:
    stream = _mixed(3)
    clean, poisoned = FACTORIES[name](), FACTORIES[name]()
    _feed(clean, stream)
    _feed(poisoned, stream)
    for _ in range(3):
        poisoned.observe(poison)
    tail = [3.0 * math.exp(random.Random(4).gauss(0, 0.03)) for _ in range(900)]
    _feed(clean, tail)
    _feed(poisoned, tail)
    numbers = poisoned.state()
    drained = {k: v for k, v in clean.state().items() if k not in ("position", "step", "at")}
    for key, value in drained.items():
        assert math.isfinite(numbers[key]) == math.isfinite(value), key
    assert clean.observe(3.0) == poisoned.observe(3.0)


@every
def test_nan_alone_is_never_green(name: str) -> None:
    detector = FACTORIES[name]()
    _feed(detector, _mixed(5))
    assert detector.observe(math.nan) is not Level.GREEN


BARE: dict[str, Callable[[], Detector]] = {
    "BaselineCurve": shelf.BaselineCurve,
    "Progress": shelf.Progress,
    "Quantile": shelf.Quantile,
    "RatioToBaseline": shelf.RatioToBaseline,
    "Collapse": shelf.Collapse,
}


@pytest.mark.parametrize("name", BARE)
def test_without_its_baseline_it_stays_inconclusive(name: str) -> None:
    assert set(_feed(BARE[name](), _mixed(6))) == {None}


@pytest.mark.parametrize(
    ("name", "samples"),
    [("Shift", 160), ("Spike", 32), ("Rising", 99), ("LowVariance", 49), ("Plateau", 99), ("Quantile", 199),
     ("Progress", 30),
     ("PageHinkley", 30), ("ChangePoint", 50), ("RatioToBest", 10), ("Frozen", 1)],
)  # fmt: skip
def test_it_is_inconclusive_until_it_has_its_samples(name: str, samples: int) -> None:
    levels = _feed(FACTORIES[name](), [3.0] * (samples + 2))
    assert set(levels[:samples]) == {None}
    assert levels[-1] is not None


@pytest.mark.parametrize(
    "build",
    [
        lambda: shelf.Threshold(),
        lambda: shelf.Threshold(yellow=5.0, red=4.0),
        lambda: shelf.Budget(limit=0.0),
        lambda: shelf.Shift(slow_drift=2.5),
        lambda: shelf.Shift(fast_bound=3.0),
        lambda: shelf.Spike(yellow=12.0, red=8.0),
        lambda: shelf.RatioToBest(factor=0.5),
        lambda: shelf.RatioToBaseline(baseline=-1.0),
        lambda: shelf.Quantile(quantile=1.5),
        lambda: shelf.Quantile(samples=5),
        lambda: shelf.Rising(window=2),
        lambda: shelf.Collapse(memorised=0.5, red=0.4),
        lambda: shelf.BaselineCurve().rebase([(5, 1.0), (3, 1.0)]),
        lambda: shelf.curve_of([math.nan, -1.0]),
    ],
)
def test_an_impossible_parameter_is_refused_with_found_and_expected(build: Callable[[], object]) -> None:
    with pytest.raises(ConfigError, match=r"found .*, expected .*; change"):
        build()
