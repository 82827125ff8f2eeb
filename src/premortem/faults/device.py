"""A device whose memory is lost in the middle of a step, as after a driver error.

Covered: from the onset each operation on a tensor that lay on the device raises what torch raises there, in the
forward pass, in the backward pass and in the optimiser, in the thread that put the fault on; tensors made afterwards
work. With ``returns_after`` the memory answers again after so many refusals: a device that was busy or was reset.
It needs no accelerator: a model on the CPU loses its memory in the same way.
Not covered: a context that is dead for new tensors too, other threads, kernels that hang.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from premortem.core.errors import ConfigError
from premortem.faults.disturbance import Disturbance
from premortem.faults.fault import Evidence

LAUNCH_FAILURE = "CUDA error: unspecified launch failure"


class DeviceLost(Disturbance):
    """Loses the memory behind ``tensors()``, as they are when it is put on.

    Args:
        tensors: all that lies on the device: parameters, buffers, the optimiser's state.
        returns_after: refused operations after which the memory answers again; ``None``: never.
        message: of the ``torch.AcceleratorError``.

    Raises:
        ConfigError: on entering, where there is no tensor to lose.
    """

    name = "device lost"

    def __init__(
        self,
        tensors: Callable[[], Iterable[Tensor]],
        *,
        returns_after: int | None = None,
        message: str = LAUNCH_FAILURE,
    ) -> None:
        self.tensors, self.returns_after, self.message = tensors, returns_after, message
        self.num_refused = 0
        self._held: list[Tensor] = []
        self._lost: set[int] = set()
        self._mode: _Refusing | None = None

    def _apply(self) -> None:
        self.num_refused = 0
        # held, so that no new tensor can get the address of a lost one
        self._held = [tensor.detach() for tensor in self.tensors()]
        self._lost = {address(tensor) for tensor in self._held if tensor.numel()}
        if not self._lost:
            raise ConfigError("device lost: found no tensor to lose, expected those of a model; name them")
        mode = _Refusing(self)
        mode.__enter__()  # type: ignore[no-untyped-call]
        self._mode = mode

    def _undo(self) -> None:
        mode, self._mode = self._mode, None
        if mode is not None:
            mode.__exit__(None, None, None)  # type: ignore[no-untyped-call]

    def refuse(self, arguments: Iterable[Any]) -> None:
        """Raise what torch raises, if one of the arguments lies on the lost device."""
        if self.returns_after is not None and self.num_refused >= self.returns_after:
            return
        if any(address(tensor) in self._lost for tensor in _tensors_in(arguments)):
            self.num_refused += 1
            raise torch.AcceleratorError(self.message)

    def observed(self) -> Evidence:
        """Whether operations were really refused."""
        return Evidence(self.num_refused > 0, f"{self.num_refused} operations were refused with {self.message!r}")

    def gone(self) -> Evidence:
        """Whether an operation on the memory that was lost works again."""
        if not self._held:
            return Evidence(None, "never entered")
        try:
            torch.add(self._held[0], 0)
        except torch.AcceleratorError as error:
            return Evidence(False, f"an operation still fails: {error}")
        return Evidence(True, "an operation on what was lost works again")


class _Refusing(TorchDispatchMode):
    """Sees every operation of its thread, those of the backward pass too."""

    def __init__(self, fault: DeviceLost) -> None:
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
