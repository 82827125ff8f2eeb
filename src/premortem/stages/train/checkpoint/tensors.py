"""What a tensor is on disk: its dtype's names, its bytes, and how many of its values are not finite."""

from __future__ import annotations

import numpy as np
import torch

Bytes = np.ndarray[tuple[int, ...], np.dtype[np.uint8]]

# Names of the safetensors format. A dtype that it lacks is stored as U8 and viewed back by our own manifest.
SAFETENSORS = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint64: "U64",
    torch.uint32: "U32",
    torch.uint16: "U16",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
_BYTES_ONLY = (torch.complex64, torch.complex128, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz)

DTYPES = {str(dtype).removeprefix("torch."): dtype for dtype in (*SAFETENSORS, *_BYTES_ONLY)}


def dtype_name(dtype: torch.dtype) -> str:
    """``torch.bfloat16`` as ``"bfloat16"``."""
    return str(dtype).removeprefix("torch.")


def refusal(tensor: torch.Tensor) -> str | None:
    """Why this tensor cannot be stored, in words, or ``None`` when it can."""
    if tensor.layout != torch.strided:
        return f"a tensor of layout {tensor.layout}"
    if tensor.device.type == "meta":
        return "a tensor on the meta device, which has no data"
    if tensor.dtype not in DTYPES.values():
        return f"a tensor of dtype {tensor.dtype}"
    return None


def host_bytes(tensor: torch.Tensor) -> Bytes:
    """The tensor's values as bytes in row-major order: shape ``(nbytes,)``, uint8; a view where it lies so already."""
    resolved = tensor.detach().resolve_conj().resolve_neg()
    if not resolved.numel():
        return np.empty(0, dtype=np.uint8)  # torch cannot view an empty tensor of odd strides as bytes
    flat = resolved.to("cpu").contiguous().reshape(-1)
    array: Bytes = flat.view(torch.uint8).numpy()
    return array


def from_bytes(array: Bytes, dtype: torch.dtype, shape: tuple[int, ...]) -> torch.Tensor:
    """The tensor over these bytes, sharing them. Raises ``RuntimeError`` when the sizes disagree."""
    if not array.nbytes:
        return torch.empty(0, dtype=dtype).reshape(shape if 0 in shape else (0,))
    return torch.from_numpy(array).view(dtype).reshape(shape)


def count_nonfinite(tensor: torch.Tensor) -> int:
    """How many values are NaN or infinite; 0 for whole numbers and booleans."""
    if not (tensor.is_floating_point() or tensor.is_complex()) or not tensor.numel():
        return 0
    wide = tensor.float() if tensor.element_size() == 1 else tensor
    # A finite sum proves every term finite in one pass without a temporary; overflow only costs the exact count.
    if bool(torch.isfinite(wide.sum())):
        return 0
    return int((~torch.isfinite(wide)).sum())
