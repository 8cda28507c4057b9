"""Settings of presets as a user writes them: `gray=true`, `hidden=(512, 256)`, `stages.joint=0`.

A setting is a field of the preset's dataclass, or of a dataclass in one of its fields, after a dot.
"""

import ast
from collections.abc import Iterator, Sequence
from dataclasses import fields, is_dataclass, replace
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

P = TypeVar("P")


def with_settings(preset: P, settings: Sequence[str]) -> P:
    """A preset with other values in some of its fields; without settings, the preset itself.

    Parameters
    ----------
    preset
        A preset, which has settings if it is a dataclass.
    settings
        `NAME=VALUE` each; of several for one name the last counts.

    Raises
    ------
    ValueError
        If one is not of that form, there is no such setting, or the value is not of its type or out of its range.
    """
    for setting in settings:
        name, equals, text = setting.partition("=")
        if not equals:
            raise ValueError(f"Expected a setting as NAME=VALUE, found {setting!r}")
        preset = _changed(preset, preset, name.strip(), name.strip().split("."), text.strip())
    return preset


def names(preset: object) -> tuple[str, ...]:
    """Names of all settings that a preset has."""
    return tuple(_names(preset, ""))


def _names(of: object, prefix: str) -> Iterator[str]:
    if not is_dataclass(of):
        return
    for field in fields(of):
        value = getattr(of, field.name)
        if is_dataclass(value):
            yield from _names(value, f"{prefix}{field.name}.")
        else:
            yield f"{prefix}{field.name}"


def _changed(whole: object, part: Any, name: str, path: Sequence[str], text: str) -> Any:
    """`part` with the field at the end of `path` set; `whole` and `name` are for errors."""
    first, *rest = path
    known = {field.name for field in fields(part)} if is_dataclass(part) else set()
    value = getattr(part, first) if first in known else None
    if first not in known or is_dataclass(value) != bool(rest):
        own = getattr(whole, "name", type(whole).__name__)
        raise ValueError(f"{own} has no setting {name!r}; it has {', '.join(names(whole)) or 'none'}")
    if rest:
        return replace(part, **{first: _changed(whole, value, name, rest, text)})
    hint = get_type_hints(type(part))[first]
    found = _parsed(text)
    if not _is_of(found, hint):
        raise ValueError(f"Setting {name}: expected {_described(hint)}, found {text!r}")
    return replace(part, **{first: found})


def _parsed(text: str) -> Any:
    """A Python literal, true, false and none in any case; what is none of these is text."""
    word = {"true": True, "false": False, "none": None}
    if text.lower() in word:
        return word[text.lower()]
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def _is_of(value: Any, hint: Any) -> bool:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Literal:
        return value in arguments
    if origin in (Union, UnionType):
        return any(_is_of(value, argument) for argument in arguments)
    if origin is tuple:
        return isinstance(value, tuple) and all(_is_of(item, arguments[0]) for item in value)
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    return isinstance(value, hint) and (hint is bool or not isinstance(value, bool))


def _described(hint: Any) -> str:
    """A type in words."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Literal:
        return "one of " + ", ".join(map(str, arguments))
    if origin in (Union, UnionType):
        return " or ".join(_described(argument) for argument in arguments)
    if origin is tuple:
        return f"values in parentheses such as (1, 2), each {_described(arguments[0])}"
    words = {int: "a whole number", float: "a number", bool: "true or false", NoneType: "none"}
    return words.get(hint, str(hint))
