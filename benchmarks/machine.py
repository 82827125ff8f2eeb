"""What it costs to read the memory of this process: processor time of one call, beside psutil's.

python benchmarks/machine.py
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import psutil

from premortem.faults.fault import NotPermitted
from premortem.faults.memory import MemoryLimit
from premortem.machine import memory
from premortem.machine.reader import MemoryReader


def microseconds(call: Callable[[], object], times: int) -> float:
    """Median of five rounds, of this thread's own processor time: other programs do not count."""
    rounds = []
    for _ in range(5):
        began = time.thread_time()
        for _ in range(times):
            call()
        rounds.append((time.thread_time() - began) / times * 1e6)
    return statistics.median(rounds)


def main() -> None:
    reader = MemoryReader()
    process = psutil.Process()
    print(f"MemoryReader.read, no limit     {microseconds(reader.read, 1000):7.1f} µs  ({reader.read().by})")
    try:
        with MemoryLimit(1 << 30):
            print(f"MemoryReader.read, under one    {microseconds(reader.read, 1000):7.1f} µs  ({reader.read().by})")
    except NotPermitted as error:
        print(f"under a limit: not run, {error}")
    print(f"memory.room                     {microseconds(memory.room, 200):7.1f} µs")
    print(f"psutil.Process().memory_info    {microseconds(process.memory_info, 1000):7.1f} µs  (resident only)")


if __name__ == "__main__":
    main()
