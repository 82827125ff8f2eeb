"""Controls of a training run that are settings: held as owned overrides, read where they act."""

from __future__ import annotations

from premortem.core.action import Override, OverrideStack, Owner, Setting


class NumberSetting:
    """A number that the stepper uses at every step: a factor on the learning rate, a bound on the norm."""

    def __init__(self, base: float) -> None:
        self._stack = OverrideStack(base)
        self.value = base

    def turn(self, owner: Owner, override: Override) -> None:
        """Put the override in force at the next step."""
        self._set(self._stack.put(owner, override))

    def undo(self, owner: Owner) -> None:
        """Remove the owner's override."""
        self._set(self._stack.remove(owner))

    def read(self) -> Setting:
        """The number in force."""
        return self.value

    def state(self) -> dict[str, object]:
        """Plain data to resume from."""
        return self._stack.state()

    def load(self, state: dict[str, object]) -> None:
        """Resume from :meth:`state`."""
        self._stack.load(state)
        self._set(self._stack.effective)

    def _set(self, value: Setting) -> None:
        if isinstance(value, str):
            raise TypeError(f"found the setting {value!r}, expected a number")
        self.value = float(value)


class WarmUp(NumberSetting):
    """A linear ramp of the learning rate over so many applied steps, from the moment it is turned on."""

    def __init__(self) -> None:
        super().__init__(0.0)
        self.applied = 0

    def turn(self, owner: Owner, override: Override) -> None:
        """Begin the ramp anew."""
        super().turn(owner, override)
        self.applied = 0

    @property
    def factor(self) -> float:
        """The ramp's present factor, in (0, 1]."""
        return 1.0 if self.value <= 0 else min(1.0, (self.applied + 1) / self.value)


class Softening(NumberSetting):
    """A factor on the strength λ of a gradient filter such as Grokfast, applied around each use."""

    def __init__(self) -> None:
        super().__init__(1.0)
