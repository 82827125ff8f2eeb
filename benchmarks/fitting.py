"""From a batch of 128 to what fits: exceptions on the way, effective batch, loss curve; ours and accelerate's finder.

A real limit (RLIMIT_DATA) that a fresh process meets; each contender runs in a process of its own. ``--json``.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
from typing import Any

BATCH, LENGTH, WIDTH, DEPTH, STEPS = 128, 128, 256, 6, 8
MIB = 1 << 20


def _parts() -> tuple[Any, Any, Any, Any]:
    import torch
    from torch import nn

    torch.set_num_threads(1)
    torch.manual_seed(0)

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(WIDTH, WIDTH)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + torch.tanh(self.inner(x))

    model = nn.Sequential(*(Block() for _ in range(DEPTH)))
    x = torch.randn(BATCH, LENGTH, WIDTH)

    def loss_of(model: nn.Module, batch: torch.Tensor) -> torch.Tensor:
        value: torch.Tensor = (model(batch) - batch.roll(1, 1)).square().mean()
        return value

    return model, torch.optim.AdamW(model.parameters(), lr=1e-3), x, loss_of


def plain(limit_mib: int) -> dict[str, Any]:
    """The curve without a limit."""
    model, optimizer, x, loss_of = _parts()
    losses = []
    for _ in range(STEPS):
        loss = loss_of(model, x)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    return {"ooms": 0, "effective_batch": BATCH, "losses": losses}


def ours(limit_mib: int) -> dict[str, Any]:
    """A guarded run, second form."""
    from premortem import Guard
    from premortem.faults.memory import AddressSpaceLimit

    model, optimizer, x, loss_of = _parts()
    calls = {"whole": 0, "ooms": 0}
    with Guard().training(model, optimizer) as run:
        answer = run.trying.answers["out of memory"]

        def counted(failure: Any) -> Any:
            calls["ooms"] += 1
            return answer(failure)

        run.trying.answers["out of memory"] = counted
        with AddressSpaceLimit(limit_mib * MIB, beyond_use=True):
            losses = [stepped.loss for _ in range(STEPS) if (stepped := run.step(loss_of, x)) is not None]
    return {"ooms": calls["ooms"], "effective_batch": BATCH, "losses": losses}


def accelerates(limit_mib: int) -> dict[str, Any]:
    """``find_executable_batch_size`` around the same loop: the batch that it ends with is the one that is trained."""
    from accelerate.utils import find_executable_batch_size

    from premortem.faults.memory import AddressSpaceLimit

    model, optimizer, x, loss_of = _parts()
    calls: list[int] = []

    @find_executable_batch_size(starting_batch_size=BATCH)
    def train(batch_size: int) -> list[float]:
        calls.append(batch_size)
        losses = []
        for _ in range(STEPS):
            loss = loss_of(model, x[:batch_size])
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses.append(float(loss.detach()))
        return losses

    with AddressSpaceLimit(limit_mib * MIB, beyond_use=True):
        losses = train()
    return {"ooms": len(calls) - 1, "effective_batch": calls[-1], "losses": losses}


def _child(name: str, limit_mib: int, answer: Any) -> None:
    try:
        answer.send({"plain": plain, "ours": ours, "accelerate": accelerates}[name](limit_mib))
    except Exception as error:  # what a contender does not survive is its result
        answer.send({"died": f"{type(error).__name__}: {str(error)[:120]}"})


def main() -> None:
    """Print what each came to."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--limit-mib", type=int, default=30)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    found = {}
    for name in ("plain", "ours", "accelerate"):
        here, there = context.Pipe()
        child = context.Process(target=_child, args=(name, given.limit_mib, there))
        child.start()
        there.close()
        try:
            found[name] = here.recv()
        except EOFError:
            child.join()
            found[name] = {"died": f"exit code {child.exitcode}"}
        child.join()
    for result in found.values():
        if "losses" in result:
            pairs = zip(result["losses"], found["plain"]["losses"], strict=True)
            result["off"] = max(abs(a - b) / b for a, b in pairs)
    if given.json:
        print(json.dumps(found))
        return
    for name, result in found.items():
        if "died" in result:
            print(f"{name:11} died: {result['died']}")
        else:
            print(f"{name:11} {result['ooms']:3} out of memory   effective batch {result['effective_batch']:4}   "
                  f"loss off the unlimited run by at most {result['off']:.2e}")  # fmt: skip


if __name__ == "__main__":
    main()
