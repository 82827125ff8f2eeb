"""YAML text to nodes that know their lines, and nodes to plain values.

Only the words of YAML 1.2's core schema are resolved: ``1e-5`` is a number, ``on``, ``no`` and dates are text.
Covered: duplicate keys, foreign tags, anchors (no shared or recursive data, so no "billion laughs"), numbers
out of range. Not covered: comments are lost.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from premortem.registers.mistake import Mistake, Path, RegisterError

try:
    from yaml import CSafeLoader as _Base
except ImportError:  # PyYAML built without libyaml: slower, the same result
    from yaml import SafeLoader as _Base  # type: ignore[assignment]

Plain = None | bool | int | float | str | list["Plain"] | dict[str, "Plain"]

MAX_BYTES = 1_000_000
"""No register is larger; a longer file is refused unread."""

MAX_DEPTH = 40
"""No register nests deeper than 7."""

_TAG = "tag:yaml.org,2002:"
_STR, _INT, _FLOAT, _BOOL, _NULL = (_TAG + name for name in ("str", "int", "float", "bool", "null"))
_NUMBER = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
_WHOLE = re.compile(r"[-+]?[0-9]+")
_NOT_FINITE = re.compile(r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)")
_NUMERIC_START = frozenset("0123456789+-.")
_WORDS = {
    "": _NULL, "~": _NULL, "null": _NULL, "Null": _NULL, "NULL": _NULL,
    "true": _BOOL, "True": _BOOL, "TRUE": _BOOL, "false": _BOOL, "False": _BOOL, "FALSE": _BOOL,
}  # fmt: skip
_MAX_DIGITS = 15
"""Whole numbers up to here are exact as a float too."""


class BlemishError(Exception):
    """A node that has no plain value."""


class _RegisterLoader(_Base):
    """Composes nodes; what text means is decided here, and not by YAML 1.1."""

    _depth = 0

    def descend_resolver(self, current_node: Node | None, current_index: object) -> None:
        # libyaml's composer recurses on the C stack: without this, 100 000 brackets end the process.
        self._depth += 1
        if self._depth > MAX_DEPTH:
            mark = current_node.start_mark if current_node else None
            raise yaml.MarkedYAMLError(problem=f"nested more than {MAX_DEPTH} deep", problem_mark=mark)

    def ascend_resolver(self) -> None:
        self._depth -= 1

    def resolve(self, kind: type[Node], value: str | None, implicit: object) -> str:
        if kind is not ScalarNode or value is None:
            return _TAG + ("seq" if kind is SequenceNode else "map")
        if not (implicit[0] if isinstance(implicit, tuple) else implicit):
            return _STR
        if value[:1] in _NUMERIC_START and value:
            return _tag_of_number(value)
        return _WORDS.get(value, _STR)


def _tag_of_number(value: str) -> str:
    if _WHOLE.fullmatch(value):
        return _INT
    return _FLOAT if _NUMBER.fullmatch(value) or _NOT_FINITE.fullmatch(value) else _STR


def compose(text: str, file: str) -> Node | None:
    """The nodes of the one document in the text; None when it is empty.

    Raises:
        RegisterError: when the text is not YAML, with line and column.
    """
    try:
        loader = _RegisterLoader(text)
    except (yaml.YAMLError, UnicodeEncodeError) as error:
        raise _not_yaml(file, 1, 1, str(error).splitlines()[0]) from None
    try:
        return loader.get_single_node()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        problem = " ".join(str(part) for part in (error.context, error.problem) if part)
        raise _not_yaml(file, line, column, problem) from None
    except yaml.YAMLError as error:
        raise _not_yaml(file, 1, 1, str(error).splitlines()[0]) from None
    finally:
        loader.dispose()


def _not_yaml(file: str, line: int, column: int, problem: str) -> RegisterError:
    text = f"found text that is not YAML at column {column} ({problem}), expected a mapping; mend that line"
    return RegisterError(file, [Mistake(line, column, (), text)])


def blemish_of(node: Node, seen: set[int]) -> str | None:
    """Why this node, looked at for the first time, has no plain value; None when it has one."""
    if id(node) in seen:
        return "found an alias of another part of the file, expected the value itself; write it out"
    seen.add(id(node))
    if not node.tag.startswith(_TAG):
        return f"found the tag {node.tag!r}, expected a plain value; remove the tag"
    if isinstance(node, ScalarNode) and node.tag in (_INT, _FLOAT):
        return _blemish_of_number(node)
    if isinstance(node, ScalarNode):
        sound = node.tag == _STR or (node.tag in (_BOOL, _NULL) and _WORDS.get(node.value) == node.tag)
    else:
        sound = node.tag == _TAG + ("seq" if isinstance(node, SequenceNode) else "map")
    if not sound:
        return f"found the tag '!!{node.tag.removeprefix(_TAG)}', expected a plain value; remove the tag"
    return None


def _blemish_of_number(node: ScalarNode) -> str | None:
    shown = shorten(node.value)
    if node.tag == _INT and not _WHOLE.fullmatch(node.value):
        return f"found {shown} tagged as a whole number, expected digits; remove the tag"
    if not (_NUMBER.fullmatch(node.value) or _NOT_FINITE.fullmatch(node.value)):
        return f"found {shown} tagged as a number, expected a number; remove the tag"
    if node.tag == _INT and len(node.value.lstrip("+-0")) > _MAX_DIGITS:
        return f"found {shown}, expected a number of at most {_MAX_DIGITS} digits; write it shorter"
    if _NOT_FINITE.fullmatch(node.value) or not math.isfinite(float(node.value)):
        return f"found {shown}, expected a finite number; write the figure that is meant"
    return None


def plain(node: Node, seen: set[int] | None = None) -> Plain:
    """The value of a node.

    Raises:
        BlemishError: for a duplicate key, an alias, a foreign tag or a number out of range; `Shape` says which.
    """
    seen = set() if seen is None else seen
    if blemish_of(node, seen) is not None:
        raise BlemishError
    if isinstance(node, ScalarNode):
        return scalar(node)
    if isinstance(node, SequenceNode):
        return [plain(item, seen) for item in node.value]
    found: dict[str, Plain] = {}
    for key_node, value_node in pairs(node):
        if key_node.tag != _STR or not isinstance(key_node, ScalarNode) or key_node.value in found:
            raise BlemishError
        found[key_node.value] = plain(value_node, seen)
    return found


def scalar(node: ScalarNode) -> bool | int | float | str | None:
    """The value of a scalar without a blemish."""
    value: str = node.value
    if node.tag == _STR:
        return value
    if node.tag == _INT:
        return int(value)
    if node.tag == _FLOAT:
        return float(value)
    return value.lower() == "true" if node.tag == _BOOL else None


def is_text(node: Node) -> bool:
    """Whether the node is text (a key must be)."""
    return isinstance(node, ScalarNode) and node.tag == _STR


def pairs(node: Node) -> Iterator[tuple[Node, Node]]:
    """Keys and values of a mapping node; nothing for any other."""
    if isinstance(node, MappingNode):
        yield from node.value


def locate(root: Node, path: Path) -> tuple[int, int]:
    """Line and column, counted from 1, of the deepest node that exists along the path."""
    node, mark = root, root.start_mark
    for step in path:
        child = _child(node, step)
        if child is None:
            break
        node, mark = child
    return mark.line + 1, mark.column + 1


def _child(node: Node, step: str | int) -> tuple[Node, yaml.Mark] | None:
    if isinstance(step, int):
        items = node.value if isinstance(node, SequenceNode) else []
        return (items[step], items[step].start_mark) if step < len(items) else None
    for key, value in pairs(node):
        if is_text(key) and key.value == step:
            return value, key.start_mark
    return None


def shorten(text: str) -> str:
    """Text for a message, quoted, at most 60 characters."""
    return repr(text if len(text) <= 60 else text[:57] + "...")
