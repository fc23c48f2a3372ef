"""What names a gateway's parsers know: told by the parsers themselves, and not by a second list."""

import importlib
import pkgutil
from collections.abc import Iterator
from functools import cache
from types import CodeType, FunctionType
from typing import Any

import msgspec

import gateways


@cache
def names(gateway: str) -> frozenset[str]:
    """Return, in lower case, every name that the modules of a gateway speak of.

    The names of Struct fields on the wire, and every text in code and tables. It is more than the
    fields that are read, and holds all of those; pure.
    """
    found: set[str] = set()
    package = importlib.import_module(f"{gateways.__name__}.{gateway}")
    for info in pkgutil.iter_modules(package.__path__):
        module = importlib.import_module(f"{package.__name__}.{info.name}")
        for value in vars(module).values():
            if getattr(value, "__module__", module.__name__) == module.__name__:
                found.update(_texts(value))
    return frozenset(text.lower() for text in found)


def _texts(value: Any) -> Iterator[str]:
    match value:
        case str():
            yield value
        case CodeType():
            for constant in value.co_consts:
                yield from _texts(constant)
        case FunctionType():
            yield from _texts(value.__code__)
        case dict():
            for key, each in value.items():
                yield from _texts(key)
                yield from _texts(each)
        case list() | tuple() | set() | frozenset():
            for each in value:
                yield from _texts(each)
        case type():
            if issubclass(value, msgspec.Struct):
                yield from value.__struct_encode_fields__
            for each in vars(value).values():
                if isinstance(each, FunctionType):
                    yield from _texts(each)
