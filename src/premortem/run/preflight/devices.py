"""Accelerators as the driver sees them now: there, sound, with room. None is said as what it is: the CPU.

Only those that ``CUDA_VISIBLE_DEVICES`` shows are looked at, and counted as torch counts them there. Not covered: a
``CUDA_DEVICE_ORDER`` other than that of the bus on a machine whose devices differ.
"""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Iterable

from premortem.core.errors import ConfigError
from premortem.machine.devices import Device, devices
from premortem.run.preflight.row import GB, Asked, Row

_FORM = re.compile(r"cpu|cuda(?::(\d+))?")
_SHARE = 0.9


def rows(asked: Asked) -> Iterable[Row]:
    """Each device that may be used; free memory is the driver's word, for others may share the device."""
    wanted = _FORM.fullmatch(asked.device or "cuda")
    if wanted is None:
        raise ConfigError(f"--device: found {asked.device!r}, expected cpu, cuda or cuda:N, such as cuda:0")
    if asked.device == "cpu":
        return [Row("devices", "ok", "the CPU, as asked", "the CPU")]
    known = devices()
    index = None if wanted[1] is None else int(wanted[1])
    visible = _visible(known.found)
    chosen = visible if index is None else visible[index : index + 1]
    if not chosen:
        return [_none(asked.device, known.trouble, len(visible))]
    found = [row for device in chosen for row in _rows(device, asked)]
    if known.trouble:
        found.append(Row("the driver", "unknown", known.trouble, "an answer", "ask the driver by hand"))
    return found


def _visible(found: tuple[Device, ...]) -> list[Device]:
    """Those that this process would see, in its order; names that are no numbers (UUIDs) hide nothing here."""
    said = os.environ.get("CUDA_VISIBLE_DEVICES")
    if said is None:
        return [*found]
    numbers = [part.strip() for part in said.split(",") if part.strip()]
    if any(not number.lstrip("-").isdecimal() for number in numbers):
        return [*found]
    by_index = {device.index: device for device in found}
    shown = itertools.takewhile(lambda number: int(number) in by_index, numbers)  # the first wrong one ends the list
    return [by_index[int(number)] for number in shown]


def _none(device: str, trouble: str, count: int) -> Row:
    if trouble:
        return Row("devices", "unknown", trouble, "the driver answers", "mend the driver, or run with --device cpu")
    if device:
        told = f"{count} devices, and not this one" if count else "no accelerator: only the CPU is there"
        return Row(f"device {device}", "not ok", told, "it is there", "name another with --device")
    return Row("devices", "ok", "no accelerator: the run will be on the CPU", "an accelerator, or the CPU")


def _rows(device: Device, asked: Asked) -> list[Row]:
    name = f"cuda:{device.index} {device.name}"
    sound = Row(
        f"{name}: health", "not ok" if device.errors else "ok", "; ".join(device.errors) or "no error is reported",
        "no uncorrected error, no row of memory lost", "use another device" if device.errors else "",
    )  # fmt: skip
    return [sound, _memory(device, name, asked)]


def _memory(device: Device, name: str, asked: Asked) -> Row:
    what = f"{name}: free memory"
    need = asked.memory_gb if asked.device else None
    if device.free is None:
        return Row(what, "unknown", "the driver does not say", "a figure", "ask the driver by hand")
    found = f"{device.free / GB:.2f} GiB free"
    if device.total:
        found += f" of {device.total / GB:.2f}"
    if device.used_by:
        found += f"; used by the processes {', '.join(map(str, device.used_by))}"
    if need is None:
        others = bool(device.used_by)
        do = "wait, or --device and --memory-gb to say what is needed" if others else ""
        return Row(what, "not ok" if others else "ok", found, "nobody else on it, or a stated need that fits", do)
    enough = device.free / GB * _SHARE >= need
    return Row(what, "ok" if enough else "not ok", found, f"{need:g} GiB within {_SHARE:.0%} of it",
               "" if enough else "wait, a smaller batch, or another device")  # fmt: skip
