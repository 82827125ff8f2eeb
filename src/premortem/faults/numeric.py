"""Numbers that break training: poisoned inputs, activations and gradients.

Covered: float inputs; any module's output (an embedding, for token batches; a loss module); one element of
one gradient; the learning rate. Not covered: weights overwritten in place, faults of a kernel or of a link
between devices.
"""

from __future__ import annotations

import functools
import math
import types
from collections.abc import Callable, Container, Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from premortem.core.errors import ConfigError
from premortem.faults.batches import B, DisturbedBatches, Part, change_part, num_differing
from premortem.faults.disturbance import Disturbance
from premortem.faults.fault import Evidence


def with_first_elements(tensor: Tensor, value: float, num: int) -> Tensor:
    """A copy whose first `num` elements, in row order, are `value`; beyond the range of the dtype: Inf."""
    changed = tensor.detach().clone(memory_format=torch.contiguous_format)
    changed.view(-1)[:num] = torch.tensor(value, dtype=torch.float64).to(tensor.dtype)
    return changed


class PoisonedBatches(DisturbedBatches[B]):
    """The first `num` elements of each float tensor (of `part`, if named) become NaN, Inf or a huge value.

    Token batches hold no floats (ConfigError): use PoisonedOutput on the embedding.
    """

    name = "poisoned batches"

    def __init__(
        self,
        batches: Iterable[B],
        at: Container[int] | None,
        value: float = math.nan,
        *,
        num: int = 1,
        part: Part | None = None,
    ) -> None:
        super().__init__(batches, at)
        self.value, self.num, self.part = value, num, part

    def _disturb(self, batch: B, step: int) -> B:
        hit: list[Tensor] = []

        def poison(tensor: Tensor) -> Tensor:
            if not tensor.is_floating_point() or tensor.numel() == 0:
                return tensor
            hit.append(tensor)
            return with_first_elements(tensor, self.value, self.num)

        poisoned = change_part(batch, self.part, poison)
        if not hit:
            raise ConfigError(
                f"poisoned batches: batch {step} holds no float tensor in part {self.part!r}; name another "
                "part, or use PoisonedOutput on the embedding"
            )
        return poisoned

    def observed(self) -> Evidence:
        """Counts what was in the batches handed out; a NaN or Inf fault must show as not finite."""
        seen = super().observed()
        detail = f"{seen.detail}, {self.num_non_finite} not finite"
        return Evidence(bool(seen.holds) and (math.isfinite(self.value) or self.num_non_finite > 0), detail)


class PoisonedOutput(Disturbance):
    """The first element of a module's output becomes `value` at its forward calls in `at` (counted from 0).

    The module must return one float tensor. Gradient flows on through every other element. Calls in
    evaluation mode are neither counted nor hit: it is training that is disturbed.
    """

    name = "poisoned output"

    def __init__(self, module: nn.Module, at: Container[int] | None, value: float = math.nan) -> None:
        self.module, self.at, self.value = module, at, value
        self.num_calls = 0
        self._num_changed = 0
        self._handles: list[torch.utils.hooks.RemovableHandle] = []
        self._hook_ids: list[int] = []

    def _apply(self) -> None:
        self._num_changed = 0
        self._handles = [self.module.register_forward_hook(self._poison)]
        self._hook_ids = [handle.id for handle in self._handles]

    def _poison(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        if not module.training:
            return output
        call, self.num_calls = self.num_calls, self.num_calls + 1
        if self.at is not None and call not in self.at:
            return output
        if not isinstance(output, Tensor) or not output.is_floating_point():
            raise ConfigError(
                f"poisoned output: {type(module).__name__} returns {type(output).__name__}, expected "
                "one float tensor; name a module that does, such as the embedding"
            )
        mask = torch.zeros(output.numel(), dtype=torch.bool, device=output.device)
        mask[0] = True
        poisoned = output.masked_fill(mask.view(output.shape), self.value)
        self._num_changed += num_differing(output, poisoned)
        return poisoned

    def _undo(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def observed(self) -> Evidence:
        """Whether outputs that really went on differed from those computed."""
        detail = f"poisoned output: {self._num_changed} elements changed in {self.num_calls} training calls"
        return Evidence(self._num_changed > 0, detail)

    def gone(self) -> Evidence:
        """Whether the module itself still lists the hook."""
        if not self._hook_ids:
            return Evidence(None, "poisoned output: never entered")
        left = [number for number in self._hook_ids if number in self.module._forward_hooks]
        return Evidence(not left, f"poisoned output: {len(left)} hooks left on {type(self.module).__name__}")


class PoisonedGradient(Disturbance):
    """ONE element of a parameter's gradient becomes `value` right after it was accumulated.

    `at`: which of the accumulations, counted from 0 (with micro-batches, several a step). What the gradient
    holds at removal stays: that is the harm, and the workload's to clear.
    """

    name = "poisoned gradient"

    def __init__(
        self, parameter: nn.Parameter, at: Container[int] | None, value: float = math.nan, element: int = 0
    ) -> None:
        if not 0 <= element < parameter.numel():
            raise ConfigError(f"poisoned gradient: element {element}, expected 0 to {parameter.numel() - 1}")
        self.parameter, self.at, self.value, self.element = parameter, at, value, element
        self.num_passes = 0
        self._num_changed = 0
        self._handle: torch.utils.hooks.RemovableHandle | None = None
        self._hook_id: int | None = None

    def _apply(self) -> None:
        self._num_changed = 0
        self._handle = self.parameter.register_post_accumulate_grad_hook(self._poison)  # type: ignore[no-untyped-call]
        self._hook_id = self._handle.id

    def _poison(self, parameter: Tensor) -> None:
        number, self.num_passes = self.num_passes, self.num_passes + 1
        gradient = parameter.grad
        if gradient is None or (self.at is not None and number not in self.at):
            return
        if gradient.layout != torch.strided:
            raise ConfigError(f"poisoned gradient: layout {gradient.layout}, expected dense; set sparse=False")
        before = gradient.detach().clone()
        place = tuple(int(i) for i in torch.unravel_index(torch.tensor(self.element), gradient.shape))
        with torch.no_grad():
            gradient[place] = self.value
        self._num_changed += num_differing(before, gradient)

    def _undo(self) -> None:
        if self._handle is not None:
            self._handle.remove()
            self._handle = None

    def observed(self) -> Evidence:
        """Whether the gradient, read back, really differed."""
        detail = f"poisoned gradient: {self._num_changed} elements changed in {self.num_passes} backward passes"
        return Evidence(self._num_changed > 0, detail)

    def gone(self) -> Evidence:
        """Whether the parameter itself still lists the hook."""
        if self._hook_id is None:
            return Evidence(None, "poisoned gradient: never entered")
        left = self._hook_id in (getattr(self.parameter, "_post_accumulate_grad_hooks", None) or {})
        return Evidence(not left, f"poisoned gradient: hook {'still on the parameter' if left else 'removed'}")


class LearningRateJump(Disturbance):
    """Every parameter group steps with `factor` times its learning rate.

    Applied around `optimizer.step()`, so no scheduler sees it: it holds under LambdaLR and OneCycle, which
    write `group["lr"]`, and after a restored checkpoint; the schedule is untouched when it goes. Between
    steps `group["lr"]` reads as scheduled. Not covered: optimizers whose step is captured in a CUDA graph.
    """

    name = "learning rate jump"

    def __init__(self, optimizer: torch.optim.Optimizer, factor: float) -> None:
        if not (math.isfinite(factor) and factor > 0 and factor != 1):
            raise ConfigError(f"learning rate jump: factor is {factor}, expected finite, above 0, not 1")
        self.optimizer, self.factor = optimizer, factor
        self._live = False
        self._ratios: list[float] = []
        self._num_conflicts = 0
        self._inner: Callable[..., object] | None = None
        self._wrapper: Callable[..., object] | None = None

    def _apply(self) -> None:
        inner: Callable[..., object] = self.optimizer.step
        self._inner = inner
        self._had_own_step = "step" in vars(self.optimizer)
        self._ratios, self._num_conflicts = [], 0

        @functools.wraps(inner)
        def step(_: torch.optim.Optimizer, *args: object, **kwargs: object) -> object:
            with self._jumped():
                return inner(*args, **kwargs)

        self._wrapper = types.MethodType(step, self.optimizer)
        self._live = True
        vars(self.optimizer)["step"] = self._wrapper

    def _rates(self) -> list[float]:
        return [float(group["lr"]) for group in self.optimizer.param_groups]

    @contextmanager
    def _jumped(self) -> Iterator[None]:
        if not self._live:
            yield
            return
        groups = self.optimizer.param_groups
        scheduled = [group["lr"] for group in groups]
        for group in groups:
            group["lr"] = group["lr"] * self.factor
        jumped = self._rates()
        witness = self.optimizer.register_step_pre_hook(self._witness_of([float(rate) for rate in scheduled]))
        try:
            yield
        finally:
            witness.remove()
            for group, rate, was in zip(groups, scheduled, jumped, strict=True):
                if math.isclose(float(group["lr"]), was):
                    group["lr"] = rate
                else:  # set anew inside the step, by a hook: that value is not ours to undo
                    self._num_conflicts += 1

    def _witness_of(self, scheduled: list[float]) -> Callable[..., None]:
        def read(*_: object) -> None:
            self._ratios += [rate / was for rate, was in zip(self._rates(), scheduled, strict=True) if was]

        return read

    def _undo(self) -> None:
        self._live = False
        # Whoever wrapped the step after us keeps their wrapper; ours inside it then passes the call through.
        if vars(self.optimizer).get("step") is self._wrapper and self._wrapper is not None:
            del self.optimizer.step
            if self._had_own_step and self._inner is not None:
                vars(self.optimizer)["step"] = self._inner

    def observed(self) -> Evidence:
        """Ratios of the rate to the scheduled one, read by a hook inside `optimizer.step()`."""
        num = sum(math.isclose(ratio, self.factor, rel_tol=1e-5) for ratio in self._ratios)
        top = max(self._ratios, default=1.0)
        detail = f"learning rate jump: x{self.factor:g} in {num} of {len(self._ratios)} group steps, most x{top:g}"
        return Evidence(num > 0, detail)

    def gone(self) -> Evidence:
        """Goes in and out of a step without updating: the rate inside must be the scheduled one."""
        if self._wrapper is None:
            return Evidence(None, "learning rate jump: never entered")
        if self._num_conflicts:
            return Evidence(None, f"learning rate jump: rate set inside a step {self._num_conflicts} times")
        outside = self._rates()
        with self._jumped():
            inside = self._rates()
        same = inside == outside
        return Evidence(same, f"learning rate jump: a step would use {inside}, scheduled are {outside}")
