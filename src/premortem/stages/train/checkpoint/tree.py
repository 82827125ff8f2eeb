"""Nested state as plain JSON plus named tensors, and back: no pickle, so nothing in a file can run code.

The encoding (version 1), kept small enough to be read by hand:

- ``null``, booleans, strings, finite floats, integers below 2**63, lists, and dicts with text keys are themselves.
- Anything else is an object whose key ``"!"`` names its kind: ``tuple``, ``dict`` (other keys: pairs), ``ordered``
  (pairs, and the ``_metadata`` of a module's state dict), ``counter``, ``deque``, ``set``, ``frozenset``, ``int``,
  ``float`` (bits), ``complex``, ``bytes``, ``size``, ``dtype``, ``device``, ``scalar`` (NumPy), ``ndarray``,
  ``tensor``.
- A tensor is its name in the safetensors file. Two places that are one tensor (tied weights) carry one name and come
  back as one tensor.

Covered: everything that torch's optimisers, schedulers, scaler, modules and the three random generators put in a
state. Not covered: classes of the user's own, sparse, quantised, distributed and sub-byte tensors; each is refused
by name. ``requires_grad``, the device and the ``Parameter`` class are not kept: tensors come back plain, on the CPU.
"""

from __future__ import annotations

import base64
import struct
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeAlias, cast

import numpy as np
import torch

from premortem.core.errors import ConfigError, StageError
from premortem.stages.train.checkpoint.tensors import DTYPES, dtype_name, refusal

Plain: TypeAlias = "bool | int | float | str | list[Plain] | dict[str, Plain] | None"
Node: TypeAlias = "dict[str, Plain]"
_Array: TypeAlias = "np.ndarray[tuple[int, ...], np.dtype[np.generic]]"

DEEPEST = 100
_KIND = "!"
_NUMPY_KINDS = "biufc"


@dataclass(frozen=True, slots=True)
class Packed:
    """A tree taken apart: ``plain`` for JSON, ``tensors`` by unique name in order of appearance."""

    plain: Plain
    tensors: dict[str, torch.Tensor]


def pack(tree: object, where: str) -> Packed:
    """Take a nested state apart without copying any tensor.

    Args:
        tree: the state; ``where`` is its name in errors.

    Raises:
        ConfigError: for a value that the encoding does not cover, naming its place and type.
    """
    packer = _Packer(where)
    return Packed(packer.encode(tree, ()), packer.tensors)


def unpack(plain: Plain, tensors: dict[str, torch.Tensor], where: str) -> object:
    """Put a nested state together again.

    Raises:
        StageError: when ``plain`` is not of this encoding or names a tensor that is not there.
    """
    try:
        return _decode(plain, tensors)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, RecursionError, struct.error) as error:
        raise StageError(
            f"{where}: its tree cannot be decoded ({type(error).__name__}: {error}); expected encoding version 1; "
            "use another bundle"
        ) from error


class _Packer:
    """One walk over one tree."""

    def __init__(self, where: str) -> None:
        self.where = where
        self.tensors: dict[str, torch.Tensor] = {}
        self._names: dict[tuple[object, ...], str] = {}

    def encode(self, value: object, path: tuple[str, ...]) -> Plain:
        if len(path) > DEEPEST:
            raise ConfigError(
                f"{self._at(path[:5])}…: nested deeper than {DEEPEST} levels, expected a finite tree; "
                "remove the value that contains itself"
            )
        if value is None or type(value) in (bool, str):
            return cast(Plain, value)
        encoder = _ENCODERS.get(type(value))
        if encoder is not None:
            return encoder(self, value, path)
        if isinstance(value, np.generic) and value.dtype.kind in _NUMPY_KINDS:
            return {_KIND: "scalar", "dtype": value.dtype.str, "hex": value.tobytes().hex()}
        raise ConfigError(
            f"{self._at(path)}: found {type(value).__module__}.{type(value).__qualname__}, expected tensors, numbers, "
            "text, bytes and lists, tuples, sets or dicts of them; turn it into those, or leave it out of the bundle"
        )

    def items(self, values: Iterable[object], path: tuple[str, ...]) -> list[Plain]:
        return [self.encode(value, (*path, str(index))) for index, value in enumerate(values)]

    def pairs(self, mapping: dict[object, object], path: tuple[str, ...]) -> list[Plain]:
        return [
            [self.encode(key, (*path, "key")), self.encode(value, (*path, str(key)))] for key, value in mapping.items()
        ]

    def tensor(self, value: torch.Tensor, path: tuple[str, ...]) -> Node:
        why = refusal(value)
        if why is not None:
            raise ConfigError(
                f"{self._at(path)}: found {why}, expected a dense tensor with data; "
                "turn it into one, or leave it out of the bundle"
            )
        identity = (value.data_ptr(), value.dtype, value.shape, value.stride(), value.device, value.is_conj())
        name = self._names.get(identity) if value.numel() else None
        if name is None:
            name = self._unused_name(path)
            self._names[identity] = name
            self.tensors[name] = value
        return {_KIND: "tensor", "name": name}

    def _unused_name(self, path: tuple[str, ...]) -> str:
        base = ".".join(path).encode("utf-8", "backslashreplace").decode() or "value"
        name, copy = base, 1
        while name in self.tensors or name == "__metadata__":
            copy += 1
            name = f"{base}#{copy}"
        return name

    def _at(self, path: tuple[str, ...]) -> str:
        return ".".join((self.where, *path))


def _encode_int(_: _Packer, value: int, __: tuple[str, ...]) -> Plain:
    return value if abs(value) < 1 << 63 else {_KIND: "int", "hex": hex(value)}


def _encode_float(_: _Packer, value: float, __: tuple[str, ...]) -> Plain:
    if value - value == 0:
        return value
    return {_KIND: "float", "bits": struct.pack(">d", value).hex()}


def _encode_dict(packer: _Packer, value: dict[object, object], path: tuple[str, ...]) -> Plain:
    if all(type(key) is str for key in value) and _KIND not in value:
        return {str(key): packer.encode(item, (*path, str(key))) for key, item in value.items()}
    return {_KIND: "dict", "items": packer.pairs(value, path)}


def _encode_ordered(packer: _Packer, value: OrderedDict[object, object], path: tuple[str, ...]) -> Plain:
    node: Node = {_KIND: "ordered", "items": packer.pairs(value, path)}
    metadata = getattr(value, "_metadata", None)
    if metadata is not None:
        node["metadata"] = packer.encode(metadata, (*path, "_metadata"))
    return node


def _encode_ndarray(packer: _Packer, value: _Array, path: tuple[str, ...]) -> Plain:
    if value.dtype.kind not in _NUMPY_KINDS or not value.dtype.isnative or value.dtype.itemsize > 16:
        raise ConfigError(
            f"{'.'.join((packer.where, *path))}: found an array of dtype {value.dtype}, "
            "expected numbers in native byte order; convert it with astype"
        )
    node = packer.tensor(torch.from_numpy(np.array(value, order="C")), path)
    return {**node, _KIND: "ndarray"}


_Encoder: TypeAlias = Callable[[_Packer, "object", "tuple[str, ...]"], Plain]


def _sequence(kind: str) -> _Encoder:
    def encode(packer: _Packer, value: object, path: tuple[str, ...]) -> Plain:
        return {_KIND: kind, "items": packer.items(cast("Iterable[object]", value), path)}

    return encode


_ENCODERS = cast(
    "dict[type, _Encoder]",
    {
        int: _encode_int,
        float: _encode_float,
        complex: lambda _, v, __: {_KIND: "complex", "bits": struct.pack(">dd", v.real, v.imag).hex()},
        bytes: lambda _, v, __: {_KIND: "bytes", "base64": base64.b64encode(v).decode("ascii")},
        list: lambda packer, v, path: packer.items(v, path),
        tuple: _sequence("tuple"),
        set: _sequence("set"),
        frozenset: _sequence("frozenset"),
        torch.Size: _sequence("size"),
        deque: lambda p, v, path: {_KIND: "deque", "items": p.items(v, path), "maxlen": v.maxlen},
        dict: _encode_dict,
        OrderedDict: _encode_ordered,
        Counter: lambda p, v, path: {_KIND: "counter", "items": p.pairs(v, path)},
        np.ndarray: _encode_ndarray,
        torch.Tensor: _Packer.tensor,
        torch.nn.Parameter: _Packer.tensor,
        torch.nn.Buffer: _Packer.tensor,
        torch.dtype: lambda _, v, __: {_KIND: "dtype", "name": dtype_name(v)},
        torch.device: lambda _, v, __: {_KIND: "device", "name": str(v)},
    },
)

_Tensors: TypeAlias = "dict[str, torch.Tensor]"


def _decode(plain: Plain, tensors: _Tensors) -> object:
    if isinstance(plain, list):
        return [_decode(item, tensors) for item in plain]
    if not isinstance(plain, dict):
        return plain
    if _KIND not in plain:
        return {key: _decode(item, tensors) for key, item in plain.items()}
    return _DECODERS[cast(str, plain[_KIND])](plain, tensors)


def _items(node: Node, tensors: _Tensors) -> list[object]:
    return [_decode(item, tensors) for item in cast("list[Plain]", node["items"])]


def _pairs(node: Node, tensors: _Tensors) -> list[tuple[object, object]]:
    pairs = cast("list[list[Plain]]", node["items"])
    return [(_decode(key, tensors), _decode(value, tensors)) for key, value in pairs]


def _text(node: Node, key: str) -> str:
    return cast(str, node[key])


def _decode_ordered(node: Node, tensors: _Tensors) -> object:
    ordered = OrderedDict(_pairs(node, tensors))
    if "metadata" in node:
        # Modules look here for the version that wrote them; without it old layouts are guessed.
        ordered._metadata = _decode(node["metadata"], tensors)  # type: ignore[attr-defined]
    return ordered


def _decode_scalar(node: Node, _: _Tensors) -> object:
    dtype = np.dtype(_text(node, "dtype"))
    if dtype.kind not in _NUMPY_KINDS:
        raise ValueError(f"dtype {dtype} is not a number")
    return np.frombuffer(bytes.fromhex(_text(node, "hex")), dtype)[0]


_DECODERS: dict[str, Callable[[Node, _Tensors], object]] = {
    "int": lambda node, _: int(_text(node, "hex"), 16),
    "float": lambda node, _: struct.unpack(">d", bytes.fromhex(_text(node, "bits")))[0],
    "complex": lambda node, _: complex(*struct.unpack(">dd", bytes.fromhex(_text(node, "bits")))),
    "bytes": lambda node, _: base64.b64decode(_text(node, "base64"), validate=True),
    "tuple": lambda node, tensors: tuple(_items(node, tensors)),
    "set": lambda node, tensors: set(_items(node, tensors)),
    "frozenset": lambda node, tensors: frozenset(_items(node, tensors)),
    "size": lambda node, tensors: torch.Size(cast("list[int]", _items(node, tensors))),
    "deque": lambda node, tensors: deque(_items(node, tensors), cast("int | None", node["maxlen"])),
    "dict": lambda node, tensors: dict(_pairs(node, tensors)),
    "ordered": _decode_ordered,
    "counter": lambda node, tensors: Counter(cast("dict[object, int]", dict(_pairs(node, tensors)))),
    "scalar": _decode_scalar,
    "ndarray": lambda node, tensors: tensors[_text(node, "name")].numpy(),
    "tensor": lambda node, tensors: tensors[_text(node, "name")],
    "dtype": lambda node, _: DTYPES[_text(node, "name")],
    "device": lambda node, _: torch.device(_text(node, "name")),
}
