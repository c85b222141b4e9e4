"""Nested mappings, files and ``key=value`` words to checked dataclasses."""

from __future__ import annotations

import types
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from unimedvl.errors import ConfigError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    Settings = TypeVar("Settings", bound=DataclassInstance)


def build(kind: type[Settings], values: Mapping[str, Any], where: str) -> Settings:
    """An instance of a dataclass from a mapping, nested dataclasses from nested mappings.

    Missing fields keep their defaults; lists become tuples where tuples are wanted, integers floats.

    Raises:
        ConfigError: a key is unknown or a value has the wrong type, named with its path; or the dataclass refuses.
    """
    known = [item.name for item in fields(kind)]
    if unknown := sorted(values.keys() - known):
        raise ConfigError(f"unknown setting {', '.join(unknown)}", where=where, remedy=f"known are {', '.join(known)}")
    hints = get_type_hints(kind)
    return kind(**{name: convert(hints[name], value, f"{where}, {name}") for name, value in values.items()})


def override(defaults: Settings, words: Sequence[str] = (), file: Path | None = None) -> Settings:
    """``defaults`` changed by a YAML file, then by ``a.b=value`` words, their values read as YAML.

    Raises:
        ConfigError: as in :func:`build`; or the file is absent or not a mapping, or a word is not ``key=value``.
    """
    import yaml

    values = asdict(defaults)
    if file is not None:
        try:
            read = yaml.safe_load(file.read_text(encoding="utf-8"))
        except OSError as error:
            raise ConfigError("no such settings file", where=str(file), remedy="check the path") from error
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            reason = str(error).replace("\n", " ")
            raise ConfigError(f"not YAML: {reason}", where=str(file), remedy="mend the file") from error
        if not isinstance(read, Mapping):
            raise ConfigError("the file holds no settings", where=str(file), remedy="write name: value lines")
        values = merged(values, read)
    for word in words:
        key, separator, text = word.partition("=")
        if not separator or not key:
            raise ConfigError(f"{word!r} is no override", where="overrides", remedy="write key=value")
        try:
            value: Any = yaml.safe_load(text)
        except yaml.YAMLError:
            value = text
        for part in reversed(key.split(".")):
            value = {part: value}
        values = merged(values, value)
    return build(type(defaults), values, "settings")


def merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """``base`` with the values of ``changes``, mapping by mapping."""
    result = dict(base)
    for key, value in changes.items():
        old = result.get(key)
        result[key] = merged(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return result


def convert(hint: Any, value: Any, where: str) -> Any:
    """``value`` as ``hint`` wants it."""
    origin, arguments = get_origin(hint), get_args(hint)
    if is_dataclass(hint) and isinstance(value, Mapping):
        return build(hint, value, where)  # pyright: ignore[reportArgumentType]
    if origin is tuple and isinstance(value, list | tuple):
        wanted = [arguments[0]] * len(value) if arguments[-1] is Ellipsis else list(arguments)
        if len(wanted) == len(value):
            return tuple(convert(each, item, where) for each, item in zip(wanted, value, strict=True))
    if origin is dict and isinstance(value, Mapping):
        of_key, of_value = arguments
        return {convert(of_key, key, where): convert(of_value, item, f"{where}, {key}") for key, item in value.items()}
    if origin in (Union, types.UnionType):
        return _convert_to_one(hint, value, where)
    if (hint is float and type(value) is int) or (hint is Path and isinstance(value, str | Path)):
        return hint(value)  # pyright: ignore[reportArgumentType]
    if (origin is Literal and value in arguments) or (isinstance(hint, type) and type(value) is hint):
        return value
    remedy = f"use one of {', '.join(map(str, arguments))}" if origin is Literal else f"give {_name(hint)}"
    raise ConfigError(f"{value!r}", where=where, remedy=remedy)


def _convert_to_one(union: Any, value: Any, where: str) -> Any:
    """The first kind of a union that takes the value."""
    kinds = [each for each in get_args(union) if each is not type(None)]
    if value is None and len(kinds) < len(get_args(union)):
        return None
    if len(kinds) == 1:  # its own error says more
        return convert(kinds[0], value, where)
    for kind in kinds:
        with suppress(ConfigError):
            return convert(kind, value, where)
    raise ConfigError(f"{value!r}", where=where, remedy=f"give {_name(union)}")


def _name(hint: Any) -> str:
    if get_origin(hint) is tuple:
        arguments = get_args(hint)
        inner = _name(arguments[0])
        return f"a list of {inner}" if arguments[-1] is Ellipsis else f"a list of {len(arguments)} {inner}"
    if get_origin(hint) in (Union, types.UnionType):
        return " or ".join(_name(each) for each in get_args(hint) if each is not type(None))
    if get_origin(hint) is dict:
        return "a mapping of names"
    return getattr(hint, "__name__", str(hint))
