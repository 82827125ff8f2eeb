"""The worker: what a client may rely on, whatever is turned meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path

import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from torch import nn

from premortem.core.action import Override, Owner
from premortem.core.errors import ConfigError, StageError
from premortem.stages.serve import Answer, InferenceWorkload, Lost, Reasoner, Refused, Settings, Solver
from premortem.stages.serve.clients import puzzles, seeded_bundle
from premortem.stages.serve.workload import SIGNALS
from premortem.stages.train.hrm import HRMConfig
from premortem.stages.train.hrm.config import Halting

CONFIG = HRMConfig(
    seq_len=16, vocab_size=5, hidden_size=16, num_heads=2, expansion=2.0, width_multiple=16, high_layers=1,
    low_layers=1, cycles=1, steps_per_cycle=1, positions="learned", loss="softmax", halting=Halting(max_segments=4),
)  # fmt: skip
ASKED = [bytes(row.tolist()) for row in puzzles().train.puzzles[:24]]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return seeded_bundle(tmp_path_factory.mktemp("model"), CONFIG, 0)


def worker(bundle: Path, **given: int | None) -> Solver:
    return Solver(Reasoner(bundle, CONFIG), Settings(**given))  # type: ignore[arg-type]


def work_off(solver: Solver) -> None:
    while solver.work():
        pass


def by_hand(reasoner: Reasoner, puzzle: bytes, segments: int) -> torch.Tensor:
    """The model's own segments, one puzzle, written out."""
    model, x = reasoner.model, torch.tensor([list(puzzle)])
    z_high, z_low = (start.expand(1, 17, 16) for start in (model.high_start, model.low_start))
    for _ in range(segments):
        segment = model.segment(z_high, z_low, x)
        z_high, z_low = segment.z_high, segment.z_low
        if bool(model.wants_halt(segment)):
            break
    return segment.logits[0].detach()


@pytest.mark.parametrize("segments", [1, 2, 4])
def test_an_answer_is_the_models_own(bundle: Path, segments: int) -> None:
    solver = worker(bundle, batch=7)
    futures = [solver.submit(puzzle, segments) for puzzle in ASKED]
    work_off(solver)
    for puzzle, future in zip(ASKED, futures, strict=True):
        logits = by_hand(solver.reasoner, puzzle, segments)
        told = torch.tensor(list(future.result().tokens))[:, None]
        assert bool((logits.gather(1, told)[:, 0] >= logits.amax(1) - 1e-4).all())
        assert future.result().segments <= segments


def test_an_answer_says_what_happened_to_it(bundle: Path) -> None:
    solver = worker(bundle, batch=4)
    told: list[Answer] = []
    for depth in (2, 1, 4, 4):
        future = solver.submit(ASKED[0], depth)
        work_off(solver)
        told.append(future.result())
    assert [a.source for a in told] == ["computed", "cache", "continued", "cache"]
    assert [a.segments for a in told] == [2, 2, 4, 4], "a deeper thought serves a shallower question"
    assert [a.batch for a in told] == [1, 0, 1, 0]
    assert [a.number for a in told] == [1, 2, 3, 4]
    assert {a.model for a in told} == {f"{bundle.name} (load 1)"}
    assert solver.counts.from_cache == 2


def test_a_puzzle_that_goes_on_from_the_cache_ends_where_one_thought_in_one_go_does(bundle: Path) -> None:
    stepwise, at_once = worker(bundle), worker(bundle)
    for depth in (1, 2, 3, 4):
        last = stepwise.submit(ASKED[1], depth)
        work_off(stepwise)
    straight = at_once.submit(ASKED[1], 4)
    work_off(at_once)
    assert last.result().tokens == straight.result().tokens


def test_a_full_queue_refuses_and_counts(bundle: Path) -> None:
    solver = worker(bundle, queue=2)
    kept = [solver.submit(puzzle) for puzzle in ASKED[:2]]
    with pytest.raises(Refused, match="the queue is full: 2 requests wait"):
        solver.submit(ASKED[2])
    work_off(solver)
    assert all(f.done() for f in kept)
    assert (solver.counts.accepted, solver.counts.refused, solver.counts.answered) == (2, 1, 2)


def test_emergency_mode_finishes_what_was_accepted(bundle: Path) -> None:
    solver = worker(bundle)
    accepted = solver.submit(ASKED[0])
    solver.admission = "emergency"
    with pytest.raises(Refused, match="emergency"):
        solver.submit(ASKED[1])
    work_off(solver)
    assert accepted.result().source == "computed"
    solver.admission = "open"
    solver.submit(ASKED[1])


def test_a_client_may_withdraw_before_its_turn(bundle: Path) -> None:
    solver = worker(bundle)
    gone, stays = solver.submit(ASKED[0]), solver.submit(ASKED[1])
    assert gone.cancel()
    work_off(solver)
    assert stays.done()
    assert (solver.counts.withdrawn, solver.counts.answered) == (1, 1)


@pytest.mark.parametrize(
    ("puzzle", "told"),
    [([1, 2], "found 2 tokens"), ([5] * 16, "the largest 5"), ([-1] * 16, "expected 16 whole"), ("x" * 16, "whole")],
)
def test_what_is_no_puzzle_is_refused_in_one_line(bundle: Path, puzzle: object, told: str) -> None:
    with pytest.raises(ConfigError, match=told) as caught:
        worker(bundle).submit(puzzle)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_a_depth_that_the_model_has_not_is_refused(bundle: Path) -> None:
    with pytest.raises(ConfigError, match="expected 1 to 4"):
        worker(bundle).submit(ASKED[0], 5)


def failing(error: Callable[[int], Exception | None]) -> Callable[..., None]:
    """A forward hook that fails by the size of the batch, as an allocation inside the model would."""

    def hook(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        if (raised := error(len(inputs[0]))) is not None:
            raise raised

    return hook


def test_a_batch_that_does_not_fit_is_halved_until_it_does(bundle: Path) -> None:
    solver = worker(bundle, batch=16)
    too_large = failing(lambda size: MemoryError() if size > 3 else None)
    solver.reasoner.model.high.register_forward_pre_hook(too_large)
    futures = [solver.submit(puzzle) for puzzle in ASKED[:16]]
    assert solver.work() == 16
    assert {f.result().batch for f in futures} == {2}
    assert solver.counts.out_of_memory == 7, "16, two of 8, four of 4"
    assert solver.counts.lost == 0


def test_what_cannot_be_answered_is_told_with_its_cause(bundle: Path) -> None:
    solver = worker(bundle, batch=2)
    hook = solver.reasoner.model.high.register_forward_pre_hook(failing(lambda size: RuntimeError("broken kernel")))
    lost = solver.submit(ASKED[0])
    work_off(solver)
    with pytest.raises(Lost, match="accepted and could not be answered: broken kernel"):
        lost.result()
    assert solver.counts.lost == 1
    hook.remove()
    solver.submit(ASKED[0])
    assert solver.work() == 1
    assert solver.counts.answered == 1


def test_a_reload_drops_hooks_cache_and_damaged_weights(bundle: Path) -> None:
    solver = worker(bundle)
    solver.submit(ASKED[0])
    work_off(solver)
    seen: list[object] = []
    solver.reasoner.model.high.register_forward_hook(lambda *args: seen.append(args))
    with torch.no_grad():
        solver.reasoner.model.token_head.weight.add_(1.0)
    assert not solver.reasoner.is_as_loaded()
    before = torch.random.get_rng_state()
    solver.reload()
    assert torch.equal(torch.random.get_rng_state(), before), "nobody's random stream moves"
    assert solver.reasoner.is_as_loaded()
    assert len(solver.cache) == 0
    future = solver.submit(ASKED[0])
    work_off(solver)
    assert future.result().model.endswith("(load 2)")
    assert seen == []


def test_a_bundle_that_does_not_verify_leaves_the_old_model_at_work(tmp_path: Path) -> None:
    mine = seeded_bundle(tmp_path, CONFIG, 0)
    solver = worker(mine)
    part = mine / "model.safetensors"
    data = bytearray(part.read_bytes())
    data[-1] ^= 1
    part.write_bytes(data)
    with pytest.raises(StageError, match="does not match its hash"):
        solver.reload()
    future = solver.submit(ASKED[0])
    work_off(solver)
    assert future.result().model.endswith("(load 1)")


def test_a_thread_serves_until_told_to_stop_and_leaves_nothing_behind(bundle: Path) -> None:
    solver, stop = worker(bundle, batch=5), threading.Event()
    thread = threading.Thread(target=solver.serve, args=(stop,))
    thread.start()
    futures: list[Future[Answer]] = []
    for number in range(60):
        futures.append(solver.submit(ASKED[number % 24], 1 + number % 4))
        if number % 10 == 0:
            solver.clear_cache()
        if number == 30:
            solver.reload()
    stop.set()
    thread.join(60)
    assert not thread.is_alive()
    assert all(f.result() for f in futures)
    assert solver.counts.answered == 60


def test_its_row_and_controls_tell_what_is(bundle: Path) -> None:
    solver = worker(bundle, batch=8, cache=None)
    workload = InferenceWorkload(solver)
    for puzzle in ASKED[:10]:
        solver.submit(puzzle)
    workload.controls["batch"].turn(Owner(1, "x"), Override("scale", 0.5))
    assert solver.work() == 4
    row = dict(zip([s.name for s in SIGNALS], workload.row(), strict=True))
    assert row["batch_in_force"] == workload.controls["batch"].read() == 4.0
    assert (row["answered"], row["cache_entries"], row["queue_length"]) == (4.0, 4.0, 6.0)
    assert row["memory_used"] is not None
    assert row["memory_used"] > 0.05, "a process with torch holds more than 50 MB"
    assert row["memory_share"] is None or 0 < row["memory_share"] < 1
    workload.controls["batch"].undo(Owner(1, "x"))
    workload.controls["cache"].turn(Owner(1, "y"), Override("choose", "clear #1.1"))
    assert workload.controls["cache"].read() == "clear #1.1"
    assert len(solver.cache) == 0
    workload.controls["model"].turn(Owner(1, "z"), Override("choose", "reload #1.1"))
    assert workload.controls["model"].read() == "reload #1.1"
    with torch.no_grad():
        solver.reasoner.model.q_head.bias.add_(1.0)
    assert workload.controls["model"].read() == "nothing", "evidence is looked for when it is read"
    workload.controls["admission"].turn(Owner(1, "e"), Override("choose", "emergency"))
    assert workload.controls["admission"].read() == "emergency"
    workload.controls["admission"].undo(Owner(1, "e"))
    assert workload.controls["admission"].read() == "open"
    work_off(solver)
    assert solver.counts.answered == 10


class AnyOrder(RuleBasedStateMachine):
    """Requests, turns, clears, caps, reloads, emergencies, batches that do not fit: none accepted is ever lost."""

    bundle: Path

    def __init__(self) -> None:
        super().__init__()
        self.solver = worker(self.bundle, queue=12, batch=4, cache=6)
        self.waiting: list[tuple[bytes, int, Future[Answer]]] = []
        self.told: dict[tuple[bytes, int], bytes] = {}
        self.withdrawn = 0

    @rule(which=st.integers(0, 7), depth=st.integers(1, 4))
    def ask(self, which: int, depth: int) -> None:
        try:
            self.waiting.append((ASKED[which], depth, self.solver.submit(ASKED[which], depth)))
        except Refused:
            assert self.solver.admission != "open" or self.solver.queue_length == 12

    @rule()
    def turn(self) -> None:
        self.solver.work()

    @rule(cap=st.sampled_from([0.3, 1.0, 2.5, 4.0]))
    def cap(self, cap: float) -> None:
        self.solver.cap_batch(cap)

    @rule()
    def clear(self) -> None:
        self.solver.clear_cache()

    @rule(bound=st.sampled_from([0, 3, None]))
    def bound(self, bound: int | None) -> None:
        self.solver.cache.bound = bound

    @rule()
    def reload(self) -> None:
        self.solver.reload()

    @rule(admission=st.sampled_from(["open", "emergency", "closed"]))
    def switch(self, admission: str) -> None:
        self.solver.admission = admission  # type: ignore[assignment]

    @rule(fits=st.integers(1, 3))
    def shrink(self, fits: int) -> None:
        too_large = failing(lambda size: MemoryError() if size > fits else None)
        self.solver.reasoner.model.high.register_forward_pre_hook(too_large)

    @precondition(lambda self: self.waiting)
    @rule(which=st.integers(0, 100))
    def withdraw(self, which: int) -> None:
        self.withdrawn += self.waiting[which % len(self.waiting)][2].cancel()

    @invariant()
    def the_accounts_balance(self) -> None:
        counts = self.solver.counts
        settled = counts.answered + counts.lost + counts.withdrawn
        assert counts.accepted == settled + self.solver.queue_length
        assert counts.lost == 0
        assert self.solver.cache.bound is None or len(self.solver.cache) <= self.solver.cache.bound

    def teardown(self) -> None:
        while self.solver.queue_length:
            self.solver.work()
        for puzzle, depth, future in self.waiting:
            if future.cancelled():
                continue
            answer = future.result(timeout=0)
            assert answer.segments <= max(4, depth)
            logits = by_hand(self.solver.reasoner, puzzle, answer.segments)
            told = torch.tensor(list(answer.tokens))[:, None]
            assert bool((logits.gather(1, told)[:, 0] >= logits.amax(1) - 1e-4).all())


def test_no_accepted_request_is_lost_in_any_order(bundle: Path) -> None:
    machine = type("Machine", (AnyOrder,), {"bundle": bundle})
    case = machine.TestCase  # type: ignore[attr-defined]
    case.settings = settings(max_examples=12, stateful_step_count=25, deadline=None)
    case("runTest").runTest()
