"""A bad network between a client and a real server on loopback, shown and taken away by measurement.

Covered: what `Condition` names, put on while client and server run. Not covered: real interfaces; the
traffic must go through the proxy's port. After SIGKILL nothing is left: the proxy lives in the process.
"""

from __future__ import annotations

from premortem.core.errors import ConfigError
from premortem.faults.condition import Condition, Kind, Measured
from premortem.faults.disturbance import Disturbance
from premortem.faults.fault import Evidence
from premortem.faults.proxy import TcpProxy

__all__ = ["BadNetwork", "Condition", "Measured", "TcpProxy"]

_SILENCE_S = 0.5
"""A probe that was given nothing for so long was given nothing: loopback answers in under a millisecond."""
_PROBE_S = 0.3
_MOST = 8 << 20
_PLAIN = 1 << 14


class BadNetwork(Disturbance):
    """Puts one condition on a proxy that runs; what was on before comes back afterwards.

    `BadNetwork(proxy, "truncate", 4096)`; for kinds and amounts see `Condition`. Raises ConfigError for a proxy
    that is closed, or an amount too large to be shown by a probe of 8 MiB.
    """

    def __init__(self, proxy: TcpProxy, kind: Kind, amount: float = 0.0, seed: int = 0) -> None:
        self.proxy, self.condition = proxy, Condition(kind, amount, seed)
        self.name = f"network: {kind}" + (f" {amount:g}" if amount else "")
        if kind == "pass":
            raise ConfigError("network: 'pass' is no fault; expected one of refuse, hang, reset, delay, …")
        self.probe_bytes = self._probe_bytes()
        if self.probe_bytes > _MOST:
            raise ConfigError(f"{self.name}: too large to be shown by a probe of {_MOST} bytes; take a smaller amount")
        self._seen = Evidence(None, f"{self.name}: never entered")

    def _probe_bytes(self) -> int:
        kind, amount = self.condition.kind, self.condition.amount
        if kind in ("truncate", "black hole"):
            return int(amount) + _PLAIN
        if kind == "corrupt":
            return 2 * int(amount)
        return max(1, int(amount * _PROBE_S)) if kind == "throttle" else _PLAIN

    def _patience_s(self) -> float:
        kind, amount = self.condition.kind, self.condition.amount
        if kind in ("hang", "black hole"):
            return _SILENCE_S
        return 10.0 + (4 * amount if kind == "delay" else 0.0)

    def _apply(self) -> None:
        self.proxy.put(self, self.condition)
        found = self.proxy.measure(self.probe_bytes, self._patience_s())
        self._seen = Evidence(self._shows(found), f"{self.name}: a probe through port {self.proxy.port} was {found}")

    def _shows(self, found: Measured) -> bool:
        amount = self.condition.amount
        match self.condition.kind:
            case "refuse":
                return found.ended == "refused"
            case "reset":
                return found.ended == "reset"
            case "hang":
                return found.ended == "silent" and found.num_bytes == 0
            case "black hole":
                return found.ended == "silent" and found.num_bytes <= amount
            case "truncate":
                return found.ended == "closed" and found.num_bytes <= amount
            case "corrupt":
                return found.num_wrong > 0
            case "delay":
                return found.is_right and found.first_s >= amount
            case _:
                # the pause follows each slice, and the clock of the loop is coarse
                return found.is_right and found.total_s >= 0.8 * found.num_bytes / amount

    def _undo(self) -> None:
        self.proxy.take(self)

    def observed(self) -> Evidence:
        """What a probe through the proxy met when the condition came on."""
        return self._seen

    def gone(self) -> Evidence:
        """Whether a probe through the proxy gets every byte right again, as another condition allows."""
        if self._seen.holds is None:
            return self._seen
        if not self.proxy.is_open:
            return Evidence(None, f"{self.name}: the proxy is closed; ask before it is")
        if self.is_on:
            return Evidence(False, f"{self.name}: still on at port {self.proxy.port}")
        other = self.proxy.condition
        found = self.proxy.measure(_PLAIN)
        if found.is_right or other.kind == "pass":
            return Evidence(found.is_right, f"{self.name}: away; a probe through port {self.proxy.port} was {found}")
        return Evidence(None, f"{self.name}: away, but the network is under {other.kind!r}: a probe was {found}")
