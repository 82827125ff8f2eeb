"""Each detector fires on its textbook fault, is silent on healthy streams, and learns nothing from what it flagged."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable

import pytest

from premortem.core.detector import Detector, Level
from premortem.parts import detectors as shelf

GREEN, YELLOW, RED, CRITICAL = Level


def _noise(seed: int, length: int, level: float = 3.0, sigma: float = 0.03) -> list[float]:
    rng = random.Random(seed)
    return [level * math.exp(rng.gauss(0, sigma)) for _ in range(length)]


def _falling(seed: int, length: int = 1500) -> list[float]:
    return [v * (0.5 + 2.7 * (i + 5) ** -0.5) for i, v in enumerate(_noise(seed, length))]


def _last(detector: Detector, stream: Iterable[float]) -> Level | None:
    level = None
    for value in stream:
        level = detector.observe(value)
    return level


def _first(detector: Detector, stream: Iterable[float], level: Level = RED) -> int | None:
    for i, value in enumerate(stream):
        found = detector.observe(value)
        if found is not None and found >= level:
            return i
    return None


def test_non_finite_is_critical_at_once_and_green_again_after() -> None:
    detector = shelf.NonFinite()
    assert [detector.observe(v) for v in (1.0, math.nan, math.inf, -math.inf, 0.0)] == [
        GREEN, CRITICAL, CRITICAL, CRITICAL, GREEN,
    ]  # fmt: skip


def test_threshold_rises_at_once_and_falls_only_inside_its_margin() -> None:
    detector = shelf.Threshold(yellow=5.0, red=8.0, critical=10.0, clear=1.0)
    stream = [4.0, 6.0, 9.0, 7.5, 6.9, 4.5, 3.9, math.inf]
    assert [detector.observe(v) for v in stream] == [GREEN, YELLOW, RED, RED, YELLOW, YELLOW, GREEN, CRITICAL]


def test_threshold_below_warns_of_low_values() -> None:
    detector = shelf.Threshold(yellow=0.3, red=0.25, below=1)
    assert [detector.observe(v) for v in (0.5, 0.29, 0.2, 0.31)] == [GREEN, YELLOW, RED, GREEN]


def test_ratio_to_best_fires_above_ten_times_the_window_best_and_forgets_older_bests() -> None:
    detector = shelf.RatioToBest(factor=10, window=100)
    assert _last(detector, [1.0] * 20 + [10.1]) is RED
    assert _last(detector, [9.9]) is GREEN
    assert _last(detector, [9.0] * 120 + [50.0]) is GREEN
    assert _last(detector, [91.0]) is RED


def test_ratio_to_best_does_not_take_the_luckiest_batch_for_its_reference() -> None:
    rng = random.Random(7)
    noisy = [rng.gauss(0, 1) ** 2 + rng.gauss(0, 1) ** 2 for _ in range(20_000)]
    assert _first(shelf.RatioToBest(), noisy) is not None
    detector = shelf.RatioToBest(memory=12)
    assert _first(detector, noisy) is None
    assert _first(detector, [100.0] * 3) is not None


def test_ratio_to_best_of_three_in_a_row_is_yellow_for_one_wild_batch_and_red_for_an_explosion() -> None:
    detector = shelf.RatioToBest(memory=12, in_row=3)
    assert _last(detector, [2.0] * 50) is GREEN
    assert [detector.observe(v) for v in (2e4, 2.0, 2e4, 2e4, 2.0)] == [YELLOW, GREEN, YELLOW, YELLOW, GREEN]
    assert [detector.observe(2e4) for _ in range(4)] == [YELLOW, YELLOW, RED, RED]


def test_ratio_to_best_does_not_accuse_tenfold_of_nothing() -> None:
    assert _first(shelf.RatioToBest(floor=0.05), [1e-6] * 50 + [1e-3, 0.1, 0.4]) is None


def test_ratio_to_baseline_counts_slower_only() -> None:
    detector = shelf.RatioToBaseline(yellow=1.15, red=1.3, critical=2.0)
    assert detector.observe(5.0) is None
    detector.rebase(10.0)
    assert [detector.observe(v) for v in (1.0, 11.0, 12.0, 13.5, 25.0)] == [GREEN, GREEN, YELLOW, RED, CRITICAL]


def test_spike_flags_a_tripled_step_and_only_that_step() -> None:
    stream = _falling(1)
    stream[700] *= 3
    detector = shelf.Spike()
    assert [i for i, v in enumerate(stream) if detector.observe(v) is YELLOW] == [700]


def test_spike_on_gradient_norms_leads_bloom_s_loss() -> None:
    calm = [0.242, 0.267, 0.205] * 40
    spike = [0.947, 2.390, 15.886, 145.119, 960.351]
    detector = shelf.gradient_norm_detectors()["spike"]
    assert {detector.observe(v) for v in calm} == {None, GREEN}
    assert detector.observe(spike[0]) is YELLOW, "one step after it begins, four before the loss peaks"


def test_a_gradient_norm_that_trebles_while_a_model_memorises_is_no_shift() -> None:
    rng = random.Random(3)
    detector = shelf.gradient_norm_detectors()["shift"]
    norms = [(0.5 + 1.0 * min(1.0, i / 150)) * math.exp(rng.gauss(0.0, 0.2)) for i in range(600)]
    assert _first(detector, norms) is None
    assert _first(detector, [20.0] * 12) is not None


@pytest.mark.parametrize(
    ("name", "fault", "within"),
    [
        ("jump +1.0", lambda v, t: v + math.exp(-t / 20), 5),
        ("jump +0.3", lambda v, t: v + 0.3 * math.exp(-t / 50), 12),
        ("growth 0.5 %", lambda v, t: v * 1.005**t, 30),
        ("ramp +1 per 1,000", lambda v, t: v + t / 1000, 250),
    ],
)
def test_shift_finds_sustained_rises(name: str, fault: Callable[[float, int], float], within: int) -> None:
    for seed in range(5):
        stream = _falling(seed)
        faulty = [fault(v, t) for t, v in enumerate(stream[700:])]
        detector = shelf.Shift()
        assert _first(detector, stream[:700]) is None
        found = _first(detector, faulty)
        assert found is not None
        assert found <= within, name


def test_shift_ignores_single_jumps_that_heal_alone() -> None:
    for seed in range(5):
        stream = [v * (1.4 if i % 97 == 50 else 1.0) for i, v in enumerate(_falling(seed))]
        assert _first(shelf.Shift(), stream) is None


def test_one_lucky_batch_sets_no_level_that_no_other_can_keep() -> None:
    """A batch of repeated text: its loss is a thirtieth, and it stands alone."""
    losses = _noise(4, 4_000)
    for at in range(500, 4_000, 500):
        losses[at] = 0.1
    detector = shelf.Shift()
    assert [step for step, loss in enumerate(losses) if detector.observe(loss) is RED] == []


def test_shift_clears_when_the_loss_is_back_and_not_before() -> None:
    detector = shelf.Shift()
    assert _last(detector, _noise(1, 600)) is GREEN
    assert _last(detector, _noise(2, 100, level=3.6)) is RED
    assert _last(detector, _noise(3, 60)) is GREEN


@pytest.mark.parametrize("shape", ["flat after a drop", "constant", "noise-free fall", "periodic"])
def test_shift_does_not_take_the_end_of_a_fall_for_a_rise(shape: str) -> None:
    streams = {
        "flat after a drop": [v * max(0.05, math.exp(-max(0, i - 500) / 30)) for i, v in enumerate(_noise(7, 1100))],
        "constant": [2.0] * 1000,
        "noise-free fall": [2.0 + 8.0 * (i + 5) ** -0.5 for i in range(1500)],
        "periodic": [v * (1 + 0.05 * math.sin(i / 8)) for i, v in enumerate(_noise(8, 1500, sigma=0.01))],
    }
    assert _first(shelf.Shift(), streams[shape]) is None


def test_rising_with_a_clip_is_not_moved_by_one_wild_batch_but_by_a_run_that_climbs_away() -> None:
    wild, climbing = [2.0] * 150 + [2e4] + [2.0] * 100, [2.0] * 150 + [2.0 * 1.3**i for i in range(20)]
    assert _first(shelf.Rising(), wild) is not None
    assert _first(shelf.Rising(clip=3.0), wild) is None
    assert _first(shelf.Rising(clip=3.0), climbing) is not None


def test_rising_sees_the_slope_and_agrees_with_a_plain_regression() -> None:
    detector = shelf.Rising(window=100, slope=0.01)
    rng = random.Random(3)
    stream = [3.0 + rng.gauss(0, 0.2) + max(0, i - 300) * 0.012 for i in range(800)]
    for i, value in enumerate(stream):
        level = detector.observe(value)
        if i >= 99:
            window = stream[i - 99 : i + 1]
            mean = sum(window) / 100
            slope = sum((k - 49.5) * (v - mean) for k, v in enumerate(window)) / (100 * (100**2 - 1) / 12)
            assert (level is RED) == (slope > 0.01)
    assert level is RED


def test_low_variance_agrees_with_the_plain_variance_far_from_zero() -> None:
    detector = shelf.LowVariance(window=50, below=1e-3)
    rng = random.Random(4)
    stream = [1e6 + rng.gauss(0, 0.06 if i < 300 else 0.01) for i in range(600)]
    for i, value in enumerate(stream):
        level = detector.observe(value)
        if i >= 49:
            window = stream[i - 49 : i + 1]
            mean = sum(window) / 50
            assert (level is YELLOW) == (sum((v - mean) ** 2 for v in window) / 50 < 1e-3)
    assert level is YELLOW


def test_plateau_warns_but_never_more() -> None:
    detector = shelf.Plateau()
    assert _last(detector, [3.0 * 0.999**i for i in range(300)]) is GREEN
    assert _last(detector, [2.2] * 300) is YELLOW


def test_frozen_sees_repeats_and_parameters_that_no_longer_change() -> None:
    assert _first(shelf.Frozen(repeats=20), [*_noise(1, 50), *[1.0] * 30]) == 50 + 19
    stopped = shelf.Frozen(repeats=20, at=0.0)
    assert _first(stopped, [1e-3] * 100) is None
    assert _first(stopped, [0.0] * 30) == 19
    assert stopped.observe(1e-3) is GREEN


def test_streak_sees_flags_in_a_row_and_too_many_of_them() -> None:
    assert _first(shelf.Streak(in_row=5), [0.0] * 10 + [1.0] * 5) == 14
    scattered = [1.0 if i % 4 == 0 else 0.0 for i in range(200)]
    assert _first(shelf.Streak(in_row=5, share=0.2, window=100), scattered) == 80
    assert _first(shelf.Streak(in_row=5, share=0.2), [1.0 if i % 10 == 0 else 0.0 for i in range(500)]) is None


def test_budget_assesses_shares_with_hysteresis() -> None:
    detector = shelf.Budget(limit=100.0)
    stream = [50.0, 80.0, 95.0, 89.0, 87.0, 79.0, 77.0, 100.0, math.inf]
    assert [detector.observe(v) for v in stream] == [
        GREEN, YELLOW, RED, RED, YELLOW, YELLOW, GREEN, CRITICAL, CRITICAL,
    ]  # fmt: skip


def test_heartbeat_assesses_silence() -> None:
    detector = shelf.Heartbeat(yellow_s=5.0, red_s=10.0, critical_s=60.0)
    assert detector.observe(1.0) is GREEN
    assert [detector.missing(s) for s in (1.0, 6.0, 11.0, 61.0, math.nan)] == [GREEN, YELLOW, RED, CRITICAL, None]


def test_quantile_agrees_with_the_sorted_window_from_200_samples_on() -> None:
    detector = shelf.Quantile(quantile=0.95, excess=0.3, samples=200, baseline=10.0)
    rng = random.Random(5)
    stream = [rng.gauss(9 if i < 500 else 12, 1) for i in range(1000)]
    for i, value in enumerate(stream):
        level = detector.observe(value)
        if i >= 199:
            p95 = sorted(stream[i - 199 : i + 1])[189]
            assert (level is RED) == (p95 > 13.0)
    assert level is RED


def test_baseline_curve_is_red_only_when_slowness_lasts() -> None:
    healthy = _falling(1)
    detector = shelf.BaselineCurve(band=0.1, patience=200)
    detector.rebase(shelf.curve_of(healthy))
    slow = [v * (1.0 if i < 300 else 1.3) for i, v in enumerate(_falling(2))]
    levels = [detector.observe(v) for v in slow]
    assert RED not in levels[:500]
    assert YELLOW in levels[300:400]
    assert levels[-1] is RED
    twin = shelf.BaselineCurve(band=0.1, patience=200)
    twin.rebase(shelf.curve_of(healthy))
    assert _first(twin, _falling(3)) is None


def test_page_hinkley_finds_a_risen_error_rate_and_clears() -> None:
    rng = random.Random(6)
    detector = shelf.PageHinkley(delta=0.02, bound=8.0)
    assert _first(detector, [float(rng.random() < 0.1) for _ in range(500)]) is None
    found = _first(detector, [float(rng.random() < 0.4) for _ in range(300)])
    assert found is not None
    assert found < 100
    assert _last(detector, [0.0] * 300) is GREEN


def test_change_point_sees_both_directions_in_any_sign() -> None:
    for shift in (-2.0, 2.0):
        rng = random.Random(7)
        detector = shelf.ChangePoint()
        assert _first(detector, [rng.gauss(-5, 1) for _ in range(400)]) is None
        found = _first(detector, [rng.gauss(-5 + shift, 1) for _ in range(100)])
        assert found is not None
        assert found < 20


def test_collapse_arms_when_memorised_fires_when_forgotten_and_clears_when_memorised_again() -> None:
    detector = shelf.Collapse()
    stream = [4.8, 1.0, 0.1, 0.01, 0.3, 0.02, 1.3, 0.35, 0.05]
    assert [detector.observe(v) for v in stream] == [None, None, GREEN, GREEN, YELLOW, GREEN, RED, RED, GREEN]


@pytest.mark.parametrize("seed", range(6))
def test_the_training_set_raises_no_alarm_on_a_healthy_run(seed: int) -> None:
    for name, detector in shelf.training_loss_detectors().items():
        assert _first(detector, _falling(seed)) is None, name


LEARNERS: dict[str, tuple[Callable[[], Detector], float]] = {
    "RatioToBest": (shelf.RatioToBest, 500.0),
    "Spike": (shelf.Spike, 500.0),
    "PageHinkley": (lambda: shelf.PageHinkley(bound=5.0), 500.0),
    "ChangePoint": (shelf.ChangePoint, 500.0),
    "Shift": (shelf.Shift, 30.0),
}
_STATISTICS = ("best", "block_best", "block_sum", "bound", "location", "mean", "reference", "scale", "wander", "width")


@pytest.mark.parametrize("name", LEARNERS)
def test_flagged_values_never_enter_the_statistics(name: str) -> None:
    build, bad = LEARNERS[name]
    detector = build()
    _last(detector, _noise(9, 600))
    for _ in range(40):
        level = detector.observe(bad)
        if level is not None and level >= YELLOW:
            break
    else:
        pytest.fail("never flagged")
    before = {k: v for k, v in detector.state().items() if k.split(".")[0] in (*_STATISTICS, "means", "minima")}
    assert before
    assert _last(detector, [bad] * 500) in (YELLOW, RED)
    after = detector.state()
    assert {k: after[k] for k in before} == before


SCALE_FREE: dict[str, Callable[[], Detector]] = {
    "Spike": shelf.Spike,
    "Shift": shelf.Shift,
    "Plateau": shelf.Plateau,
    "RatioToBest": lambda: shelf.RatioToBest(floor=1e-300),
    "ChangePoint": lambda: shelf.ChangePoint(floor=1e-300),
}


@pytest.mark.parametrize("name", SCALE_FREE)
@pytest.mark.parametrize("factor", [2.0**-20, 2.0**9])
def test_a_scaled_stream_gets_the_same_levels(name: str, factor: float) -> None:
    stream = _falling(11)
    stream[400] *= 20
    stream = stream[:900] + [v * (1.004**t) for t, v in enumerate(stream[900:])]
    plain, scaled = SCALE_FREE[name](), SCALE_FREE[name]()
    assert [plain.observe(v) for v in stream] == [scaled.observe(v * factor) for v in stream]


def _healthy_curve() -> list[tuple[float, float]]:
    return [(float(step), 3.0 * 0.995**step + 0.05) for step in range(0, 1001, 20)]


def test_pace_accuses_a_run_that_stops_learning_and_clears_when_it_learns_again() -> None:
    detector = shelf.Progress(window=40, memory=5)
    detector.rebase(_healthy_curve())
    loss = lambda step: 3.0 * 0.995**step + 0.05  # noqa: E731
    assert set(map(detector.observe, (loss(s) for s in range(200)))) == {None, Level.GREEN}
    stuck = [detector.observe(loss(200)) for _ in range(120)]
    assert stuck[-1] is Level.RED
    again = [detector.observe(loss(200 + s)) for s in range(120)]
    assert again[-1] is Level.GREEN


def test_pace_does_not_accuse_a_run_that_starts_worse_and_learns_as_fast() -> None:
    detector = shelf.Progress(window=40, memory=5)
    detector.rebase(_healthy_curve())
    levels = [detector.observe(3.0 * 0.995 ** (step - 100) + 0.05) for step in range(600)]
    assert Level.RED not in levels


def test_pace_is_content_at_the_floor() -> None:
    detector = shelf.Progress(window=40, memory=5)
    detector.rebase(_healthy_curve())
    levels = [detector.observe(0.055) for _ in range(300)]
    assert levels[-1] is Level.GREEN
