"""Out of memory under a real limit: the run goes on with the same batch, or stops with a valid checkpoint."""

from __future__ import annotations

import multiprocessing
import resource
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from premortem import Guard
from premortem.core.evidence import Record
from premortem.faults.fault import NotPermitted
from premortem.faults.memory import AddressSpaceLimit, Leak, MemoryLimit
from premortem.risks.train.out_of_memory.risk import Params, contingency
from premortem.stages.train.checkpoint import Shelf, verify_bundle

MIB = 1 << 20
BATCH, WIDTH = 16, 16384


class Wide(nn.Module):
    """Two parameters and 64 KiB of activations a sample and layer: memory is the batch's alone."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.full((6,), 0.5, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        for scale in self.scale:
            x = torch.tanh(x * scale)
        return x


def loss_of(model: nn.Module, x: Tensor) -> Tensor:
    value: Tensor = (model(x) - 0.3).square().mean()
    return value


def train(folder: str, limit: str, steps: int, answer: Any) -> None:
    """A run in a process of its own; sends losses, rungs, what ended it, and exceptions for want of memory."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = Wide()
    x = torch.randn(BATCH, WIDTH, dtype=torch.float64)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    records: list[Record] = []
    losses: list[float] = []
    ooms = 0.0
    fault: Any = {"refuses": lambda: AddressSpaceLimit(24 * MIB), "kills": lambda: MemoryLimit(24 * MIB)}.get(limit)
    leak = Leak(2 * MIB)
    if limit == "leaks":
        fault = lambda: MemoryLimit(150 * MIB)  # noqa: E731
    guard = Guard("agent-forge", entries=("AF-1.3",), ledger=Path(folder) / "ledger.db")
    with guard.training(model, optimizer, checkpoints=folder, save_every=10) as run:
        run.driver.listen(records.append)
        place = None if fault is None else fault()
        try:
            if place is not None:
                place.__enter__()
            if limit == "leaks":
                leak.__enter__()
            for _ in range(steps):
                if run.stopped:
                    break
                leak.leak()
                stepped = run.step(loss_of, x)
                assert stepped is not None
                losses.append(stepped.loss)
        finally:
            leak.remove()
            if place is not None:
                place.remove()
        rungs = [str(r.data["rung"]) for r in records if r.event == "intent" and r.data.get("verb") == "turn"]
        ooms = sum(1.0 for r in records if r.event == "finding" and "exceptions" in str(r.data))
        answer.send((losses, rungs, run.stop_reason, ooms))


def in_a_process(folder: Path, limit: str, steps: int) -> tuple[list[float], list[str], str, float]:
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    child = context.Process(target=train, args=(str(folder), limit, steps, there))
    child.start()
    there.close()
    try:
        found: tuple[list[float], list[str], str, float] = here.recv()
    except EOFError:
        child.join()
        raise AssertionError(f"the run ended with exit code {child.exitcode}") from None
    child.join()
    return found


@pytest.mark.parametrize("limit", ["refuses", "kills"])
def test_a_batch_that_does_not_fit_is_taken_in_pieces_and_the_losses_are_the_same(tmp_path: Path, limit: str) -> None:
    if limit == "kills" and not may_limit():
        return
    plain, _, _, _ = in_a_process(tmp_path / "free", "none", 30)
    losses, rungs, why, _ = in_a_process(tmp_path / "tight", limit, 30)
    assert why == ""
    assert rungs[0] == "take the largest batch that fits"
    assert losses == pytest.approx(plain, rel=1e-9)


def test_a_leak_is_stopped_with_a_valid_checkpoint_before_the_kernel_kills(tmp_path: Path) -> None:
    if not may_limit():
        return
    losses, rungs, why, _ = in_a_process(tmp_path / "leak", "leaks", 400)
    assert "out of memory" in why
    assert rungs[-1] == "stop with a valid checkpoint"
    newest = Shelf(tmp_path / "leak", own=False).find_loadable().bundle
    assert newest is not None
    verify_bundle(newest.path)
    assert newest.step == len(losses)


def may_limit() -> bool:
    """Whether a limit that kills may be set here; where not, entering one says so in one line."""
    limit = MemoryLimit(1 << 40)
    try:
        limit.__enter__()
    except NotPermitted:
        with pytest.raises(NotPermitted, match=r"^[^\n]+$"):
            limit.__enter__()
        return False
    limit.remove()
    return True


def test_params_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValueError, match="contingency"):
        Params(contingency="pray")
    rung = contingency(Params(contingency="cpu"))
    assert rung is not None
    assert rung.control == "device"


def test_the_limit_of_this_process_is_as_it_was() -> None:
    assert resource.getrlimit(resource.RLIMIT_DATA)[0] == resource.RLIM_INFINITY


@pytest.mark.parametrize("second_form", [True, False])
def test_a_healthy_run_with_the_default_register_raises_no_finding_and_is_bit_identical(
    tmp_path: Path, second_form: bool
) -> None:
    def parts() -> tuple[nn.Module, torch.optim.Optimizer, list[Tensor]]:
        torch.manual_seed(3)
        model = nn.Sequential(nn.Linear(8, 64), nn.Dropout(0.1), nn.Tanh(), nn.Linear(64, 8))
        # batches of every size: each larger one is a pass that was never measured
        return model, torch.optim.Adam(model.parameters(), lr=1e-3), [torch.randn(1 + i, 8) for i in range(60)]

    model, optimizer, batches = parts()
    for x in batches:
        loss_of(model, x).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()
    plain = [p.detach().clone() for p in model.parameters()]

    model, optimizer, batches = parts()
    records: list[Record] = []
    with Guard().training(model, optimizer, checkpoints=tmp_path / "ckpt", save_every=20, probation=10) as run:
        watched = {b.watch.signal for b in run.engine.plan.watches if b.entry == "DEF-7"}
        run.driver.listen(records.append)
        for x in batches:
            assert run.step(loss_of, x) if second_form else run.step(loss_of(model, x))
    assert {"memory_need", "memory_held", "ooms"} <= watched
    assert [r for r in records if r.entry == "DEF-7" and r.event in ("finding", "opened")] == []
    assert all(torch.equal(a, b) for a, b in zip(plain, model.parameters(), strict=True))
