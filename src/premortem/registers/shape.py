"""Nodes held against the types of `schema.py`: every mistake of shape, each with its line.

The loader comes here only when a file does not load; a good file pays nothing for it.
"""

from __future__ import annotations

import re

from msgspec import inspect
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from premortem.registers.mistake import SHOWN, Mistake, Path, closest, nearest
from premortem.registers.schema import RegisterFile
from premortem.registers.source import blemish_of, is_text, pairs, scalar, shorten


class Shape:
    """One walk over one file; ``mistakes`` is what it found."""

    def __init__(self) -> None:
        self.mistakes: list[Mistake] = []
        self._seen: set[int] = set()

    def check(self, root: Node) -> list[Mistake]:
        """All mistakes of shape under the root of a file."""
        self._check(root, inspect.type_info(RegisterFile), ())
        return self.mistakes

    def _report(self, node: Node, path: Path, text: str) -> None:
        mark = node.start_mark
        self.mistakes.append(Mistake(mark.line + 1, mark.column + 1, path, text))

    def _check(self, node: Node, wanted: inspect.Type, path: Path) -> None:
        blemish = blemish_of(node, self._seen)
        outer, wanted = wanted, bare(wanted)
        if isinstance(wanted, inspect.UnionType) and isinstance(node, MappingNode):
            wanted = next((option for option in wanted.types if isinstance(option, inspect.StructType)), wanted)
        if blemish is not None:
            self._report(node, path, blemish)
        elif isinstance(wanted, inspect.StructType) and isinstance(node, MappingNode):
            self._check_struct(node, wanted, path)
        elif isinstance(wanted, inspect.DictType) and isinstance(node, MappingNode):
            for key, _, value in self._distinct(node, path):
                self._check(value, wanted.value_type, (*path, key))
        elif isinstance(wanted, inspect.ListType) and isinstance(node, SequenceNode):
            for index, item in enumerate(node.value):
                self._check(item, wanted.item_type, (*path, index))
        elif not _accepts(node, wanted):
            self._report(node, path, f"found {_found(node)}, expected {expected(outer)}{_hint(node, wanted)}")

    def _check_struct(self, node: MappingNode, wanted: inspect.StructType, path: Path) -> None:
        fields = {field.encode_name: field for field in wanted.fields}
        answered: set[str | None] = set()
        for key, key_node, value in self._distinct(node, path):
            if key in fields:
                answered.add(key)
                self._check(value, fields[key].type, (*path, key))
            else:
                answered.add(self._unknown(key, key_node, path, tuple(fields)))
        for name, field in fields.items():
            if field.required and name not in answered:
                text = f"found nothing, expected {expected(field.type)}; add the key {name!r}"
                self._report(node, (*path, name), text)

    def _unknown(self, key: str, node: Node, path: Path, allowed: tuple[str, ...]) -> str | None:
        """Report an unknown key; the answer is the name that was probably meant."""
        meant = nearest(key, allowed) if len(self.mistakes) < SHOWN else None
        hint = f"; did you mean {meant!r}?" if meant else "; take it out"
        text = f"found the unknown key {shorten(key)}, expected one of {', '.join(allowed)}{hint}"
        self._report(node, (*path, key[:60]), text)
        return meant

    def _distinct(self, node: MappingNode, path: Path) -> list[tuple[str, Node, Node]]:
        """Key, its node and its value, where the key is text and new; the other keys are reported."""
        kept: dict[str, tuple[str, Node, Node]] = {}
        for key_node, value in pairs(node):
            blemish = blemish_of(key_node, self._seen)
            if blemish is not None or not is_text(key_node):
                self._report(key_node, path, blemish or f"found {_found(key_node)} as a key, expected text")
                continue
            key: str = key_node.value
            if key in kept:
                line = kept[key][1].start_mark.line + 1
                text = f"found the key {shorten(key)} again (first on line {line}), expected it once; remove one"
                self._report(key_node, (*path, key[:60]), text)
            else:
                kept[key] = (key, key_node, value)
        return list(kept.values())


def bare(wanted: inspect.Type) -> inspect.Type:
    """A type without its description and examples."""
    return wanted.type if isinstance(wanted, inspect.Metadata) else wanted


def _accepts(node: Node, wanted: inspect.Type) -> bool:
    """Whether a scalar node is of a scalar type."""
    wanted = bare(wanted)
    if not isinstance(node, ScalarNode):
        return False
    if isinstance(wanted, inspect.UnionType):
        return any(_accepts(node, option) for option in wanted.types)
    value = scalar(node)
    if isinstance(wanted, inspect.LiteralType):
        return type(value) is str and value in wanted.values
    if isinstance(wanted, inspect.StrType):
        return isinstance(value, str) and (wanted.pattern is None or bool(re.search(wanted.pattern, value)))
    if isinstance(wanted, inspect.BoolType | inspect.NoneType):
        return type(value) is bool if isinstance(wanted, inspect.BoolType) else value is None
    if isinstance(wanted, inspect.IntType):
        return type(value) is int and _inside(value, wanted)
    return isinstance(wanted, inspect.FloatType) and type(value) in (int, float) and _inside(value, wanted)


def _inside(value: object, wanted: inspect.IntType | inspect.FloatType) -> bool:
    low = wanted.ge if wanted.ge is not None else float("-inf")
    high = wanted.le if wanted.le is not None else float("inf")
    return isinstance(value, int | float) and low <= value <= high


def expected(wanted: inspect.Type) -> str:
    """A type in words."""
    if isinstance(wanted, inspect.Metadata):
        examples = (wanted.extra_json_schema or {}).get("examples", [])
        return expected(wanted.type) + "".join(f" such as {example!r}" for example in examples[:1])
    if isinstance(wanted, inspect.UnionType):
        return " or ".join(dict.fromkeys(expected(option) for option in wanted.types))
    if isinstance(wanted, inspect.LiteralType):
        return "one of " + ", ".join(str(value) for value in wanted.values)
    if isinstance(wanted, inspect.StrType):
        return "text" if wanted.pattern is None else f"text of the form {wanted.pattern}"
    if isinstance(wanted, inspect.IntType | inspect.FloatType):
        kind = "a whole number" if isinstance(wanted, inspect.IntType) else "a number"
        low = "" if wanted.ge is None else f" from {wanted.ge:g}"
        return kind + low + ("" if wanted.le is None else f" to {wanted.le:g}")
    words = {inspect.BoolType: "true or false", inspect.NoneType: "nothing", inspect.ListType: "a list"}
    return words.get(type(wanted), "a mapping")


def _found(node: Node) -> str:
    if isinstance(node, MappingNode):
        return "a mapping"
    if isinstance(node, ScalarNode):
        value = scalar(node)
        if value is None:
            return "nothing (null)"
        return shorten(value) if isinstance(value, str) else str(value).lower()
    return "a list"


def _hint(node: Node, wanted: inspect.Type) -> str:
    """What to do about a wrong value, where it can be told."""
    if not isinstance(node, ScalarNode):
        return "" if not isinstance(wanted, inspect.ListType) else "; put '- ' before each item"
    options = [bare(option) for option in (wanted.types if isinstance(wanted, inspect.UnionType) else (wanted,))]
    value = scalar(node)
    if isinstance(wanted, inspect.ListType):
        return "" if value is None else "; write it as a list"
    if isinstance(value, str):
        words = [str(word) for option in options if isinstance(option, inspect.LiteralType) for word in option.values]
        return closest(value, words)
    if value is not None and any(isinstance(option, inspect.StrType) for option in options):
        return "; put it in quotes"
    return ""
