"""Memory of this process that nobody uses: how much the allocator keeps, and giving it back to the machine.

The one home of calls to glibc's malloc; under another C library they do nothing and know nothing.
"""

from __future__ import annotations

import ctypes
import gc

_LIBRARY = ctypes.CDLL(None)
_TRIM = getattr(_LIBRARY, "malloc_trim", None)
_INFO = getattr(_LIBRARY, "mallinfo2", None)


class _MallocInfo(ctypes.Structure):
    """glibc's ``struct mallinfo2``; ``fordblks``: free bytes in its heap."""

    _fields_ = tuple(
        (name, ctypes.c_size_t)
        for name in ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks",
                     "keepcost")
    )  # fmt: skip


if _INFO is not None:
    _INFO.restype = _MallocInfo


def trim() -> None:
    """Let the allocator return its free pages: milliseconds."""
    if _TRIM is not None:
        _TRIM(0)


def give_back() -> None:
    """Collect what is garbage, then :func:`trim`: tens of milliseconds."""
    gc.collect()
    trim()


def free_in_heap() -> int:
    """Bytes of address space that the allocator keeps and can hand out again; 0 where it does not tell."""
    return 0 if _INFO is None else int(_INFO().fordblks)
