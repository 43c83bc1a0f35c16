"""Frozen dataclasses to and from JSON, trusting nothing that is read."""

from __future__ import annotations

import math
from dataclasses import fields, is_dataclass
from types import NoneType, UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from ddae_app.errors import ModelError

T = TypeVar('T')


def from_json(kind: type[T], value: Any, where: str) -> T:
    """Build a value of a type from parsed JSON, checking every name and type.

    Parameters
    ----------
    kind : type
        A dataclass, ``tuple[X, ...]``, ``tuple[X, Y]``, ``X | None``, ``dict[str, X]``, int,
        float, str or bool, nested as you like.
    value : object
        As :func:`json.loads` gives it.
    where : str
        Names the value in messages.

    Raises
    ------
    ModelError
        If a field is missing, unknown, of another type or not finite.
    """
    origin, args = get_origin(kind), get_args(kind)
    result: Any
    if is_dataclass(kind):
        return _dataclass(kind, value, where)  # type: ignore[return-value]
    if origin is UnionType and NoneType in args:
        inner = next(a for a in args if a is not NoneType)
        result = None if value is None else from_json(inner, value, where)
    elif origin is tuple:
        _expect(isinstance(value, list), where, value, 'a list')
        kinds = [args[0]] * len(value) if args[-1] is Ellipsis else args
        _expect(len(value) == len(kinds), where, value, f'{len(kinds)} values')
        pairs = enumerate(zip(kinds, value, strict=True))
        result = tuple(from_json(k, v, f'{where}[{i}]') for i, (k, v) in pairs)
    elif origin is dict:
        _expect(isinstance(value, dict), where, value, 'an object')
        result = {k: from_json(args[1], v, f'{where}.{k}') for k, v in value.items()}
    elif kind is float:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        _expect(number and math.isfinite(value), where, value, 'a finite number')
        result = float(value)
    else:
        _expect(type(value) is kind, where, value, kind.__name__)
        result = value
    return result


def _dataclass(kind: type, value: Any, where: str) -> Any:
    _expect(isinstance(value, dict), where, value, 'an object')
    hints = get_type_hints(kind)
    names = {f.name for f in fields(kind)}
    if set(value) != names:
        unknown, missing = sorted(set(value) - names), sorted(names - set(value))
        raise ModelError(f'{where} has unknown keys {unknown} and lacks {missing}')
    return kind(**{n: from_json(hints[n], value[n], f'{where}.{n}') for n in names})


def _expect(fine: bool, where: str, value: Any, expected: str) -> None:
    if not fine:
        raise ModelError(f'{where} is {str(value)[:60]!r}, where {expected} is expected')
