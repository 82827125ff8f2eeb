"""A device that fails in the middle of a step, as after a driver error: its memory is lost, or it refuses everything.

Covered: from the onset operations raise what torch raises there, in the forward pass, in the backward pass and in the
optimiser, in the thread that put the fault on. They need no accelerator: a model on the CPU fails in the same way.
Not covered: other threads, kernels that hang, errors that only show at a later synchronisation.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from premortem.core.errors import ConfigError
from premortem.faults.disturbance import Disturbance
from premortem.faults.fault import Evidence

LAUNCH_FAILURE = "CUDA error: unspecified launch failure"


class _Refusal(Disturbance):
    """What both faults share: a mode that sees every operation of its thread and may refuse it."""

    message = LAUNCH_FAILURE

    def __init__(self) -> None:
        self.num_refused = 0
        self._mode: _Refusing | None = None

    @abstractmethod
    def hits(self, tensors: Iterable[Tensor]) -> bool:
        """Whether an operation on these tensors fails now."""

    def refuse(self, arguments: Iterable[Any]) -> None:
        """Raise what torch raises, if the operation fails now."""
        if self.hits(_tensors_in(arguments)):
            self.num_refused += 1
            raise torch.AcceleratorError(self.message)

    def _apply(self) -> None:
        self.num_refused = 0
        mode = _Refusing(self)
        mode.__enter__()  # type: ignore[no-untyped-call]
        self._mode = mode

    def _undo(self) -> None:
        mode, self._mode = self._mode, None
        if mode is not None:
            mode.__exit__(None, None, None)  # type: ignore[no-untyped-call]

    def observed(self) -> Evidence:
        """Whether operations were really refused."""
        return Evidence(self.num_refused > 0, f"{self.num_refused} operations were refused with {self.message!r}")


class DeviceLost(_Refusal):
    """Loses the memory behind ``tensors()``, as they are when it is put on; tensors made afterwards work.

    Args:
        tensors: all that lies on the device: parameters, buffers, the optimiser's state.
        loses_again: how often memory that was taken anew is lost as well, when its first tensor is met elsewhere.

    Raises:
        ConfigError: on entering, where there is no tensor to lose.
    """

    name = "device lost"

    def __init__(self, tensors: Callable[[], Iterable[Tensor]], *, loses_again: int = 0) -> None:
        super().__init__()
        self.tensors, self.loses_again = tensors, loses_again
        self._held: list[Tensor] = []
        self._lost: set[int] = set()

    def _apply(self) -> None:
        self._left = self.loses_again
        self._held, self._lost = [], set()
        self._lose()
        if not self._lost:
            raise ConfigError("device lost: found no tensor to lose, expected those of a model; name them")
        super()._apply()

    def _lose(self) -> None:
        now = [tensor.detach() for tensor in self.tensors()]
        self._held += now  # held, so that no new tensor can get the address of a lost one
        self._lost |= {address(tensor) for tensor in now if tensor.numel()}

    def hits(self, tensors: Iterable[Tensor]) -> bool:
        """Whether one of them lies in lost memory."""
        met = {address(tensor) for tensor in tensors}
        if met & self._lost:
            return True
        if self._left and met & {address(tensor) for tensor in self.tensors()}:
            self._left -= 1
            self._lose()
            return True
        return False

    def gone(self) -> Evidence:
        """Whether an operation on the memory that was lost works again."""
        if not self._held:
            return Evidence(None, "never entered")
        try:
            torch.add(self._held[0], 0)
        except torch.AcceleratorError as error:
            return Evidence(False, f"an operation still fails: {error}")
        return Evidence(True, "an operation on what was lost works again")


class DeviceBusy(_Refusal):
    """Refuses every operation, on new tensors too, until it has refused ``refusals``: busy, or being reset."""

    name = "device busy"
    message = "CUDA error: all CUDA-capable devices are busy or unavailable"

    def __init__(self, refusals: int) -> None:
        super().__init__()
        self.refusals = refusals

    def hits(self, tensors: Iterable[Tensor]) -> bool:
        """Whether it is still busy."""
        return self.num_refused < self.refusals

    def gone(self) -> Evidence:
        """Whether an operation works."""
        try:
            torch.add(torch.ones(1), 0)
        except torch.AcceleratorError as error:
            return Evidence(False, f"an operation still fails: {error}")
        return Evidence(True, "operations work")


class _Refusing(TorchDispatchMode):
    """Sees every operation of its thread, those of the backward pass too."""

    def __init__(self, fault: _Refusal) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._fault = fault

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        given = dict(kwargs or {})
        self._fault.refuse([*args, *given.values()])
        return function(*args, **given)


def address(tensor: Tensor) -> int:
    """Where a tensor's storage lies; views share it."""
    return tensor.untyped_storage().data_ptr()


def _tensors_in(arguments: Iterable[Any]) -> Iterable[Tensor]:
    for argument in arguments:
        if isinstance(argument, Tensor):
            yield argument
        elif isinstance(argument, list | tuple):
            yield from _tensors_in(argument)
