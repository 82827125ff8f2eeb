"""A step that failed for want of memory is put back to its start and taken again, as if nothing had been."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from premortem.core.errors import ConfigError
from premortem.stages.train.guarded.failures import classify
from premortem.stages.train.guarded.stepper import Companions, Stepper
from premortem.stages.train.guarded.trying import Trying


class Model(nn.Module):
    """Draws random numbers (dropout) and keeps running statistics (batch norm)."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(6, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Dropout(0.3), nn.Linear(12, 6))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.body(x)
        return out


class Fails:
    """A loss that raises ``error`` at its ``at``-th call, after the forward or in the middle of the backward pass."""

    def __init__(self, at: int, error: BaseException, *, in_backward: bool) -> None:
        self.calls, self.at, self.error, self.in_backward = 0, at, error, in_backward

    def __call__(self, model: nn.Module, x: Tensor) -> Tensor:
        self.calls += 1
        random.random()
        np.random.random()
        hidden = x * 1.0
        out = model(hidden)
        if self.calls == self.at:
            if not self.in_backward:
                raise self.error
            middle = model.body[0].weight * 1.0
            middle.register_hook(self._raise)  # the last layers' gradients are there already
            out = out + (middle.sum() * 0.0)
        return (out - x).square().mean()

    def _raise(self, gradient: Tensor) -> None:
        raise self.error


def train(loss: Fails, *, accumulate: int, answer: bool) -> tuple[dict[str, Tensor], list[object]]:
    torch.manual_seed(0)
    random.seed(0)
    np.random.seed(0)
    model = Model()
    stepper = Stepper(
        model, torch.optim.AdamW(model.parameters(), lr=1e-2), Companions(), max_norm=1.0, accumulate=accumulate
    )
    trying = Trying(stepper)
    if answer:
        trying.answers["out of memory"] = lambda failure: lambda: None
    for _ in range(12):
        trying.second_form(loss, torch.randn(8, 6))
    streams: list[object] = [torch.get_rng_state(), random.random(), np.random.random()]
    return {k: v.clone() for k, v in model.state_dict().items()}, streams


@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.parametrize("in_backward", [False, True])
@pytest.mark.parametrize("at", [1, 5, 6])
def test_a_step_taken_again_leaves_no_trace(accumulate: int, in_backward: bool, at: int) -> None:
    never = Fails(0, MemoryError(), in_backward=False)
    weights, streams = train(never, accumulate=accumulate, answer=False)
    error = RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")
    once = Fails(at, error, in_backward=in_backward)
    again, streams_again = train(once, accumulate=accumulate, answer=True)
    assert once.calls > never.calls
    assert all(torch.equal(weights[k], again[k]) for k in weights)
    assert torch.equal(streams[0], streams_again[0])  # type: ignore[arg-type]
    assert streams[1:] == streams_again[1:]


def test_without_an_answer_the_exception_goes_on_as_it_came() -> None:
    error = MemoryError("no more")
    with pytest.raises(MemoryError) as caught:
        train(Fails(2, error, in_backward=False), accumulate=1, answer=False)
    assert caught.value is error


def test_a_mistake_of_the_users_is_never_taken_again() -> None:
    loss = Fails(2, ValueError("a wrong shape"), in_backward=False)
    with pytest.raises(ValueError, match="a wrong shape"):
        train(loss, accumulate=1, answer=True)
    assert loss.calls == 2


def test_micro_batches_of_the_first_form_cannot_be_taken_again() -> None:
    model = Model()
    stepper = Stepper(model, torch.optim.SGD(model.parameters(), lr=0.1), Companions(), accumulate=2)
    trying = Trying(stepper)
    trying.answers["out of memory"] = lambda failure: lambda: None
    trying.first_form(model(torch.randn(4, 6)).square().mean())
    with pytest.raises(MemoryError):
        trying.second_form(Fails(1, MemoryError(), in_backward=False), torch.randn(4, 6))


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."), "out of memory"),
        (torch.AcceleratorError("CUDA error: out of memory"), "out of memory"),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you "
                      "tried to allocate 99 bytes. Error code 12 (Cannot allocate memory)"), "out of memory"),
        (RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 99 bytes."), "out of memory"),
        (RuntimeError("std::bad_alloc"), "out of memory"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), "out of memory"),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), "out of memory"),
        (MemoryError(), "out of memory"),
        (OSError(12, "Cannot allocate memory"), "out of memory"),
        (torch.AcceleratorError("CUDA error: unspecified launch failure"), "device lost"),
        (RuntimeError("CUDA error: uncorrectable ECC error encountered"), "device lost"),
        (RuntimeError("CUDA error: all CUDA-capable devices are busy or unavailable"), "device lost"),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied (3x4 and 5x6)"), None),
        (OSError(28, "No space left on device"), None),
        (ValueError("out of memory is a phrase that users may write"), None),
    ],
)  # fmt: skip
def test_the_kind_of_a_failure_is_read_from_the_exception(error: BaseException, kind: str | None) -> None:
    found = classify(error)
    assert (found and found.kind) == kind


def test_a_failure_that_somebody_wrapped_is_the_same_failure() -> None:
    try:
        try:
            raise MemoryError("inside")
        except MemoryError as inner:
            raise RuntimeError("the loss could not be computed") from inner
    except RuntimeError as error:
        found = classify(error)
    assert found is not None
    assert found.kind == "out of memory"


def test_a_real_allocation_that_fails_is_seen() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 55, dtype=torch.uint8)
    found = classify(caught.value)
    assert found is not None
    assert found.kind == "out of memory"


def test_lbfgs_in_the_first_form_is_refused() -> None:
    model = Model()
    trying = Trying(Stepper(model, torch.optim.LBFGS(model.parameters()), Companions()))
    with pytest.raises(ConfigError, match="loss_fn"):
        trying.first_form(model(torch.randn(4, 6)).square().mean())
