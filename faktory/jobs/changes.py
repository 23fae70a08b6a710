"""Where the JSON of a type differs from what msgspec makes of its values, and reads.

For each type a function is made that changes JSON: after msgspec on the way to the wire, before it
on the way back. It changes leaves, the values of single types, by functions that are passed in. Of
a NamedTuple, which is a list for msgspec, it makes an object. It sorts sets: an equal set makes an
equal job, which matters to unique jobs.

Rules: a change returns a new value. It leaves alone what it does not expect, and msgspec then says
what is wrong.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from types import NoneType
from typing import Any, Final
from uuid import UUID

from msgspec import inspect as nodes

from .annotations import base_of

Change = Callable[[Any], Any]

Named = Callable[[Sequence[nodes.Field], Sequence[Change | None]], Change]

_STEP: Final = re.compile(r"\.(\w+)|\[(\d+)\]")


class Wrong(ValueError):
    """A value is wrong; `path` leads to it from where this is caught."""

    def __init__(self, reason: str, path: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.path = path


_TYPES: Final[dict[type[nodes.Type], type]] = {
    nodes.TimeDeltaType: timedelta,
    nodes.DateTimeType: datetime,
    nodes.TimeType: time,
    nodes.DateType: date,
    nodes.UUIDType: UUID,
    nodes.DecimalType: Decimal,
    nodes.BytesType: bytes,
    nodes.ByteArrayType: bytearray,
}


def type_of(node: nodes.Type) -> type:
    """Return the type, as in the tables above, that a node stands for; NoneType for any other."""
    if isinstance(node, nodes.CustomType):
        return base_of(node.cls) or NoneType
    return _TYPES.get(type(node), NoneType)


def inside(node: nodes.Type) -> list[nodes.Type]:
    """Return the nodes of a type, each once: a type may contain itself."""
    found, known = [node], {id(node)}
    for each in found:  # which grows
        for child in _children(each):
            if id(child) not in known:
                known.add(id(child))
                found.append(child)
    return found


def _children(node: Any) -> Iterator[nodes.Type]:
    for name in ("type", "key_type", "value_type", "item_type"):
        if isinstance(child := getattr(node, name, None), nodes.Type):
            yield child
    yield from getattr(node, "types", ())
    yield from getattr(node, "item_types", ())
    yield from (field.type for field in getattr(node, "fields", ()))


def _bare(node: nodes.Type) -> nodes.Type:
    while isinstance(node, nodes.Metadata):
        node = node.type
    return node


def is_untyped(node: nodes.Type) -> bool:
    """Return whether any value fits."""
    return isinstance(node, nodes.AnyType) or getattr(node, "cls", None) is object


def check(node: nodes.Type) -> None:
    """Raise TypeError for a type whose JSON is unknown, or has two meanings."""
    cls: Any = getattr(node, "cls", None)
    if isinstance(node, nodes.CustomType) and cls is not object:
        if base_of(cls) is None and not hasattr(cls, "model_validate_json"):
            raise TypeError(f"{cls.__name__} is not a type that msgspec knows")
    elif isinstance(node, nodes.DataclassType) and hasattr(cls, "__pydantic_validator__"):
        raise TypeError(f"{cls.__name__} is a dataclass of pydantic, make it a BaseModel")
    elif isinstance(node, nodes.UnionType):
        members = [_bare(member) for member in node.types]
        for ours, others, text in _ALIKE:
            if any(isinstance(member, ours) for member in members) and any(
                isinstance(member, others) and not getattr(member, "array_like", False)
                for member in members
            ):
                raise TypeError(text)


_ALIKE: Final = (
    (
        nodes.TimeDeltaType,
        (nodes.IntType, nodes.FloatType, nodes.LiteralType, nodes.EnumType),
        "on the wire a timedelta is a number, as another member of the union is",
    ),
    (
        nodes.NamedTupleType,
        (nodes.DictType, nodes.StructType, nodes.DataclassType, nodes.TypedDictType),
        "on the wire a NamedTuple is an object, as another member of the union is",
    ),
)
"""Members of a union that differ for msgspec, and are alike on our wire."""


class Changes:
    """Makes the changes of types, out of those of leaves and of NamedTuples.

    `leaf` returns the change of a node, or None.
    """

    def __init__(
        self, leaf: Callable[[nodes.Type], Change | None], named: Named, *, sort_sets: bool = False
    ) -> None:
        self._leaf = leaf
        self._named = named
        self._sorted = (nodes.SetType, nodes.FrozenSetType) if sort_sets else ()
        self._made: dict[int, Change | None] = {}

    def of(self, node: nodes.Type) -> Change | None:
        """Return the change of a type's JSON; None where there is nothing to change."""
        key = id(node)
        if key not in self._made:
            if any(map(self._begins, inside(node))):
                self._made[key] = lambda value: change(value)  # for a type that contains itself
                change = self._make(node)
                self._made[key] = change
            else:
                self._made[key] = None
        return self._made[key]

    def _begins(self, node: nodes.Type) -> bool:
        return self._leaf(node) is not None or isinstance(
            node, (nodes.NamedTupleType, *self._sorted)
        )

    def _make(self, node: Any) -> Change:
        if (leaf := self._leaf(node)) is not None:
            return leaf
        if isinstance(node, nodes.Metadata):
            return self._make(node.type)
        if isinstance(node, nodes.UnionType):
            return self._make_union([_bare(member) for member in node.types])
        if isinstance(node, nodes.DictType):
            return _change_values(self.of(node.value_type) or _same)
        if isinstance(node, nodes.TupleType):
            return _change_positions([self.of(each) for each in node.item_types])
        if hasattr(node, "item_type"):
            change = _change_items(self.of(node.item_type) or _same)
            return _and_sort(change) if isinstance(node, self._sorted) else change
        each = [self.of(field.type) for field in node.fields]
        if isinstance(node, nodes.NamedTupleType):
            return self._named(node.fields, each)
        if getattr(node, "array_like", False):
            return _change_positions(each if node.tag is None else [None, *each])
        return _change_fields(_by_name(node.fields, each))

    def _make_union(self, members: list[Any]) -> Change:
        """Return the change of whichever member a value is of.

        Members differ in the kind of their JSON; only structs with tags may have the same.
        """
        tagged: dict[object, Change] = {}
        tag_field: Any = None
        others: list[tuple[tuple[type, ...], Change]] = []
        for member in members:
            change = self.of(member)
            if getattr(member, "tag", None) is not None:
                tag_field = 0 if member.array_like else member.tag_field
                tagged[member.tag] = change or _same
            elif change is not None:
                others.append((_kinds(member), change))

        def change_one(value: Any) -> Any:
            if tagged:
                try:
                    return tagged[value[tag_field]](value)
                except (LookupError, TypeError):
                    pass  # another member, or a wrong value
            for kinds, change in others:
                if isinstance(value, kinds):
                    return change(value)
            return value

        return change_one


def _kinds(node: nodes.Type) -> tuple[type, ...]:
    """Return the types that the JSON of a union's member has, on its way to the wire and back."""
    if isinstance(node, nodes.NamedTupleType):
        return (dict, list, tuple)
    if isinstance(node, nodes.DictType | nodes.TypedDictType | nodes.DataclassType) or (
        isinstance(node, nodes.StructType) and not node.array_like
    ):
        return (dict,)
    kind = type_of(node)
    return (list, tuple) if kind is NoneType else (kind, int, float)


def _same(value: Any) -> Any:
    return value


def _change_items(each: Change) -> Change:
    def change(value: Any) -> Any:
        if not isinstance(value, list | tuple):
            return value
        made: list[Any] = []
        try:
            for item in value:
                made.append(each(item))
        except Wrong as wrong:
            wrong.path = f"[{len(made)}]{wrong.path}"
            raise
        return made

    return change


def _and_sort(change: Change) -> Change:
    def change_and_sort(value: Any) -> Any:
        made = change(value)
        if not isinstance(made, list):
            return made
        try:
            return sorted(made)
        except TypeError:  # items of several types
            return sorted(made, key=repr)

    return change_and_sort


def _change_positions(each: Sequence[Change | None]) -> Change:
    def change(value: Any) -> Any:
        if not isinstance(value, list | tuple):
            return value
        made = [*value]
        index = 0
        try:
            for index, by in enumerate(each[: len(made)]):
                if by is not None:
                    made[index] = by(made[index])
        except Wrong as wrong:
            wrong.path = f"[{index}]{wrong.path}"
            raise
        return made

    return change


def _change_values(each: Change) -> Change:
    def change(value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        made: dict[Any, Any] = {}
        name = None
        try:
            for name, item in value.items():
                made[name] = each(item)
        except Wrong as wrong:
            wrong.path = f"[{name!r}]{wrong.path}"
            raise
        return made

    return change


def _change_fields(each: dict[str, Change]) -> Change:
    def change(value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        made = {**value}
        name = ""
        try:
            for name, by in each.items():
                if name in made:
                    made[name] = by(made[name])
        except Wrong as wrong:
            wrong.path = f".{name}{wrong.path}"
            raise
        return made

    return change


def _by_name(fields: Sequence[nodes.Field], each: Sequence[Change | None]) -> dict[str, Change]:
    pairs = zip(fields, each, strict=True)
    return {field.encode_name: change for field, change in pairs if change is not None}


# NamedTuples, which msgspec makes lists of


class _Fields(list[Any]):
    """The fields of a NamedTuple from the wire, in the order of their `names`."""

    names: list[str]


def named_to_wire(fields: Sequence[nodes.Field], each: Sequence[Change | None]) -> Change:
    """Return what makes an object of the list of a NamedTuple's fields."""
    names = [field.encode_name for field in fields]
    change_object = _change_fields(_by_name(fields, each))

    def change(value: Any) -> Any:
        if isinstance(value, list | tuple) and len(value) <= len(names):
            value = dict(zip(names, value, strict=False))
        return change_object(value)

    return change


def named_from_wire(fields: Sequence[nodes.Field], each: Sequence[Change | None]) -> Change:
    """Return what makes that list of the object."""
    change_object = _change_fields(_by_name(fields, each))
    change_list = _change_positions(each)

    def change(value: Any) -> Any:
        if not isinstance(value, dict):
            return change_list(value)  # as it was pushed where no annotation was used
        value = change_object(value)
        made = _Fields()
        made.names = [field.encode_name for field in fields]
        for name, field in zip(made.names, fields, strict=True):
            if field.required and name not in value:
                raise Wrong(f"object missing required field `{name}`")
            made.append(value.get(name, field.default))
        return made

    return change


def find(value: Any, path: str) -> tuple[str, list[Any]]:
    """Follow a path of msgspec; return it as it is on the wire, and in a list what is there.

    The list is empty if the path cannot be followed: msgspec does not say the keys of a dict.
    """
    followed, position = "", 0
    while step := _STEP.match(path, position):
        name, index = step.groups()
        if isinstance(value, _Fields):
            name = value.names[int(index)]
            value = value[int(index)]
        else:
            try:
                value = value[int(index) if name is None else name]
            except (LookupError, TypeError):
                break
        followed += f"[{index}]" if name is None else f".{name}"
        position = step.end()
    rest = path[position:]
    return followed + rest, [] if rest else [value]
