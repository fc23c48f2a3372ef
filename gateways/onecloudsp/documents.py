"""1cloudsp's forms and JSON as rows with lower-case names."""

import json
import re
from collections.abc import Mapping, Sequence
from decimal import Decimal
from urllib.parse import unquote_to_bytes

import msgspec

from gateways import wire
from gateways.errors import Malformed

Row = Mapping[str, object]

_JSON = msgspec.json.Decoder(float_hook=Decimal)
_ANNOUNCED = re.compile(rb"(?:\xef\xbb\xbf)?\s*[{\[]")
_BETWEEN = re.compile(r"[\s,]*")
_MOST_FIELDS = 200


class Page(msgspec.Struct, frozen=True):
    """A document: its rows, and what stood beside them (`code`, `msg`).

    `fault` says why the document could not be read to its end: the rows before it are whole.
    """

    rows: Sequence[Row]
    answer: Row
    fault: str | None = None


def read_object(body: bytes, content_type: str = "") -> dict[str, object]:
    """Return the JSON object in `body`, names as they are. Raises `Malformed`."""
    document = _decoded(_text(body, content_type))
    if not isinstance(document, dict):
        raise Malformed("no object")
    return document


def read_page(body: bytes, content_type: str = "") -> Page:
    """Return the rows of JSON: a list, one record, or an object with them under `data`.

    Of JSON that is cut, the rows that are whole. Raises `Malformed` where nothing is understood.
    """
    text = _text(body, content_type)
    try:
        document = _decoded(text)
    except Malformed:
        rows = _whole_rows(text)
        if not rows:
            raise
        return Page(rows, {}, fault=f"the JSON breaks off after row {len(rows)}")
    if isinstance(document, list):
        return Page(_rows(document), {})
    if not isinstance(document, dict):
        raise Malformed("neither object nor list")
    fields = lowered(document)
    if "mobile" in fields:
        return Page([fields], {})
    if fields.keys().isdisjoint({"code", "data"}):
        raise Malformed("the names in the JSON are unknown")
    rows = _rows(fields.pop("data", None))
    return Page(rows, fields)


def read_push(body: bytes, content_type: str = "") -> Page:
    """Return the rows of a push: a form, which is one, or JSON by its first character."""
    if _ANNOUNCED.match(body):
        return read_page(body, content_type)
    return Page([_form(body, content_type)], {})


def lowered(fields: Mapping[str, object]) -> dict[str, object]:
    """Return `fields` under lower-case names without blanks around them."""
    return {name.strip().lower(): value for name, value in fields.items()}


def _form(body: bytes, content_type: str) -> Row:
    if not body.strip():
        raise Malformed("empty")
    if body.count(b"&") > _MOST_FIELDS:
        raise Malformed("too many fields")
    pairs = [part.partition(b"=") for part in body.split(b"&") if b"=" in part]
    texts = wire.decode_all(
        [unquote_to_bytes(text.replace(b"+", b" ")) for pair in pairs for text in pair[::2]],
        content_type,
    )
    names = [name.strip().lower() for name in texts[::2]]
    if len(set(names)) < len(names):
        raise Malformed("the form repeats a field")
    return dict(zip(names, texts[1::2], strict=True))


def _text(body: bytes, content_type: str) -> str:
    text = wire.decode(body, content_type).strip()
    if not text:
        raise Malformed("empty")
    if wire.too_deep(text):
        raise Malformed("nested too deep")
    return text


def _decoded(text: str) -> object:
    try:
        return _JSON.decode(text)
    except (msgspec.DecodeError, ArithmeticError, UnicodeError):
        raise Malformed("not JSON") from None


def _rows(value: object) -> list[Row]:
    """Return what is a list, one object or nothing as a list; what is no object as an empty row."""
    if value is None or value == "":
        return []
    values = value if isinstance(value, list) else [value]
    return [lowered(row) if isinstance(row, dict) else {} for row in values]


def _whole_rows(text: str) -> list[Row]:
    """Return the objects that stand whole in the first list of a JSON text that is cut."""
    decode = json.JSONDecoder(parse_float=Decimal).raw_decode
    rows: list[Row] = []
    place = text.find("[") + 1
    while place:
        try:
            row, place = decode(text, _BETWEEN.match(text, place).end())  # type: ignore[union-attr]
        except (ValueError, ArithmeticError):
            break
        rows.append(lowered(row) if isinstance(row, dict) else {})
    return rows
