"""Shapes of documents: which fields stand in them and with which types, and never a value. Pure."""

import contextlib
import re
from collections.abc import Iterator
from urllib.parse import unquote_to_bytes
from xml.parsers import expat

import msgspec

from gateways import wire
from gateways.errors import Malformed

MOST_FEATURES = 300
_DEEPEST = 8
_DIGITS = re.compile(r"\d{5,}", re.ASCII)
_NAME = re.compile(r"[\w#@:-]{1,48}", re.ASCII)
_CODE = re.compile(r"[\w:.+-]{1,32}")
_TYPES = {str: "text", bool: "boolean", int: "number", float: "number", type(None): "null"}


def features(body: bytes, query: bytes, content_type: str) -> frozenset[tuple[str, str]]:
    """Return each field of a document by its path, with its type.

    JSON and XML by their first character, else a form; documents within a form's fields too. What
    cannot be read has no fields. Rows of lists are one: `data[].id`. Names that hold numbers such as
    phones are shown without them.
    """
    raw = body if body.strip() else query
    found: set[tuple[str, str]] = set()
    try:
        for feature in _document(wire.decode(raw, content_type).strip(), ""):
            found.add(feature)
            if len(found) >= MOST_FEATURES:
                break
    except (Malformed, msgspec.DecodeError, expat.ExpatError, RecursionError, ValueError):
        pass  # what was read before counts
    return frozenset(found)


def code(text: str) -> str:
    """Return a vendor's code as it may be shown: none that could hold a phone number or a text."""
    return text if _CODE.fullmatch(text) and not _DIGITS.search(text) else "#"


def _document(text: str, at: str) -> Iterator[tuple[str, str]]:
    if text.startswith("%"):
        text = unquote_to_bytes(text.replace("+", " ")).decode("utf-8", "replace").strip()
    if text.startswith("<"):
        yield from _xml(text, at)
    elif text.startswith(("{", "[")):
        if wire.too_deep(text):
            return
        try:
            value = msgspec.json.decode(text)
        except msgspec.DecodeError:
            value = msgspec.json.decode(wire.repaired(text))
        yield from _json(value, at, 0)
    elif "=" in text:
        for pair in text.split("&")[:MOST_FEATURES]:
            name, equals, value = pair.partition("=")
            if not equals:
                continue
            path = _join(at, unquote_to_bytes(name.replace("+", " ")).decode("utf-8", "replace"))
            inner = unquote_to_bytes(value.replace("+", " ")).decode("utf-8", "replace").strip()
            yield path, "text"
            if not at and inner.startswith(("<", "{", "[")):
                yield from _document(inner, path)


def _json(value: object, at: str, depth: int) -> Iterator[tuple[str, str]]:
    if depth > _DEEPEST:
        return
    if isinstance(value, dict):
        if at:
            yield at, "object"
        for name, inner in value.items():
            yield from _json(inner, _join(at, str(name)), depth + 1)
    elif isinstance(value, list):
        if at:
            yield at, "list"
        for inner in value:
            yield from _json(inner, f"{at}[]", depth + 1)
    else:
        yield at or "document", _TYPES.get(type(value), "text")


def _xml(text: str, at: str) -> Iterator[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    path: list[str] = [at] if at else []
    parser = expat.ParserCreate(encoding="utf-8")

    def start(name: str, attributes: dict[str, str]) -> None:
        path.append(_shown(name.rpartition(":")[2]))
        found.append((".".join(path), "element"))
        found.extend((".".join((*path, f"@{_shown(each)}")), "text") for each in attributes)

    def end(_name: str) -> None:
        path.pop()

    def refuse(*_declaration: object) -> None:
        raise Malformed("the XML declares a document type")

    parser.StartElementHandler = start
    parser.EndElementHandler = end
    parser.StartDoctypeDeclHandler = refuse
    with contextlib.suppress(expat.ExpatError):  # cut: the elements before count
        parser.Parse(text.encode(), True)
    yield from dict.fromkeys(found)


def _join(at: str, name: str) -> str:
    return f"{at}.{_shown(name)}" if at else _shown(name)


def _shown(name: str) -> str:
    # What is no name could be a text: nothing of it is shown.
    name = _DIGITS.sub("#", name.strip())
    return name if _NAME.fullmatch(name) else "?"


def last_name(feature: str) -> str:
    """Return the name that a path ends in, in lower case, as gateways know it."""
    return feature.rpartition(".")[2].removesuffix("[]").removeprefix("@").lower()
