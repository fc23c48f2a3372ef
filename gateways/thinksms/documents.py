"""The platform's XML and JSON, in all their drifts, as rows with lower-case names."""

import json
import re
from collections.abc import Mapping, Sequence
from urllib.parse import unquote_to_bytes
from xml.etree import ElementTree
from xml.parsers import expat

import msgspec

from gateways import wire
from gateways.errors import Malformed

Row = Mapping[str, object]

_ROOT = "returnsms"
ERROR = "errorstatus"
_BOXES = frozenset({"statusbox", "callbox"})
_ANSWERS = frozenset({ERROR, "error", "returnstatus", "message", "overage"})

# What a careless writer of XML leaves in a handset's text.
_ILLEGAL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]")
_STRAY = re.compile(r"&(?!(?:amp|lt|gt|quot|apos|#\d{1,7}|#x[0-9a-fA-F]{1,6});)")
_BETWEEN = re.compile(r"[\s,]*")
_PERCENT = re.compile("%[57]b", re.IGNORECASE)
_ANNOUNCED = re.compile(rb"(?:\xef\xbb\xbf)?\s*(?:[<{\[]|%[57]b)", re.IGNORECASE)


class Page(msgspec.Struct, frozen=True):
    """A document: its rows, and what stood beside them (`error`, `remark`, `returnstatus`, ...).

    `boxed` tells that JSON named its list of rows, were it empty; `fault` why the document could
    not be read to its end: the rows before it are whole.
    """

    rows: Sequence[Row]
    answer: Row
    boxed: bool = False
    fault: str | None = None


def announced(body: bytes) -> bool:
    """Tell whether `body` begins as a document that `read` reads."""
    return _ANNOUNCED.match(body) is not None


def read(body: bytes, content_type: str = "") -> Page:
    """Return the rows of `body`, XML or JSON by its first character, perhaps percent-encoded.

    An empty body is a page without rows. Raises `Malformed` where nothing can be understood.
    """
    text = wire.decode(body, content_type).strip()
    if _PERCENT.match(text):
        text = wire.decode(unquote_to_bytes(text.replace("+", " ")), content_type).strip()
    return read_text(text) if text else Page([], {})


def read_text(text: str) -> Page:
    """Return the rows of `text`, which is not empty."""
    if text.startswith("<"):
        return _xml(text)
    if text.startswith(("{", "[")):
        return _json(text)
    raise Malformed("neither XML nor JSON")


def _xml(text: str) -> Page:
    plain = _plain_rows(text)
    if plain is not None:
        return plain
    page = _xml_rows(text)
    if page.fault:
        mended = _STRAY.sub("&amp;", _ILLEGAL.sub("\ufffd", text))
        if mended != text:
            page = _xml_rows(mended)
    if page.fault and not page.rows:
        raise Malformed(page.fault)
    return page


def _plain_rows(text: str) -> Page | None:
    """Return what `_xml_rows` does, in half the time, of a document as nearly all are; else None."""
    if text.count("<!") > text.count("<![CDATA[") or text.count("<?") > 1:
        return None  # perhaps a document type, and with it entities
    try:
        root = ElementTree.XML(text, ElementTree.XMLParser(encoding="utf-8"))  # noqa: S314
    except ElementTree.ParseError:
        return None
    if root.tag.lower() != _ROOT:
        return None
    rows: list[Row] = []
    answer: dict[str, object] = {}
    for element in root:
        name = element.tag.lower()
        if name in _BOXES:
            row: dict[str, object] = {}
            for field in element:
                tag = field.tag.lower()
                if len(field) or tag[0] == "{" or tag in _BOXES:
                    return None
                row[tag] = field.text or ""
            rows.append(row)
        elif len(element) or name[0] == "{":
            return None
        else:
            answer[name] = element.text or ""
    return Page(rows, answer)


def _xml_rows(text: str) -> Page:
    """Collect each box as a row when its end is seen, so that a cut page keeps the rows before."""
    rows: list[Row] = []
    answer: dict[str, object] = {}
    path: list[str] = []
    row: dict[str, object] = {}
    said: list[str] = []

    def start(name: str, _attributes: dict[str, str]) -> None:
        name = name.rpartition(":")[2].lower()
        if not path and name != _ROOT and name not in _BOXES:
            raise Malformed("the root of the XML is unknown")
        if name in _BOXES:
            row.clear()
        path.append(name)
        said.clear()

    def end(_name: str) -> None:
        name = path.pop()
        parent = path[-1] if path else ""
        if name in _BOXES:
            rows.append(row.copy())
        elif parent in _BOXES:
            row[name] = "".join(said)
        elif parent in (_ROOT, ERROR):
            answer[name] = "".join(said)
        said.clear()

    def refuse(*_declaration: object) -> None:
        raise Malformed("the XML declares a document type")

    parser = expat.ParserCreate(encoding="utf-8")
    parser.buffer_text = True
    parser.StartElementHandler = start
    parser.EndElementHandler = end
    parser.CharacterDataHandler = said.append
    parser.StartDoctypeDeclHandler = refuse  # and with it every entity
    try:
        parser.Parse(text.encode(), True)
    except expat.ExpatError as error:
        fault = f"the XML breaks off after row {len(rows)} (code {error.code})"
        return Page(rows, answer, fault=fault)
    return Page(rows, answer)


def _json(text: str) -> Page:
    if wire.too_deep(text):
        raise Malformed("nested too deep")
    try:
        document = msgspec.json.decode(text)
    except msgspec.DecodeError:
        rows = _whole_rows(text)
        if not rows:
            raise Malformed("not JSON") from None
        return Page(rows, {}, fault=f"the JSON breaks off after row {len(rows)}")
    if isinstance(document, dict):
        fields = _lowered(document)
        wrapped = fields.get("result")
        if isinstance(wrapped, str) and wrapped.lstrip().startswith(("<", "{")):
            return read_text(wrapped.strip())  # a marketplace's envelope
        inner = fields.get(_ROOT)
        return _object(_lowered(inner) if isinstance(inner, dict) else fields)
    return Page(_rows(document), {})


def _object(fields: dict[str, object]) -> Page:
    boxes = [name for name in fields if name in _BOXES]
    if not boxes and "mobile" in fields:
        return Page([fields], {})
    if fields and not boxes and fields.keys().isdisjoint(_ANSWERS):
        raise Malformed("the names in the JSON are unknown")
    answer = {name: value for name, value in fields.items() if name not in _BOXES}
    refusals = _rows(answer.pop(ERROR, None))
    for refusal in refusals:
        answer |= {ERROR: "", **refusal}
    return Page([row for name in boxes for row in _rows(fields[name])], answer, boxed=bool(boxes))


def _rows(value: object) -> list[Row]:
    """Return what is a list, one object or nothing as a list; what is no object as an empty row."""
    if value is None or value == "":
        return []
    values = value if isinstance(value, list) else [value]
    return [_lowered(row) if isinstance(row, dict) else {} for row in values]


def _lowered(fields: Mapping[str, object]) -> dict[str, object]:
    return {name.strip().lower(): value for name, value in fields.items()}


def _whole_rows(text: str) -> list[Row]:
    """Return the objects that stand whole in the first list of a JSON text that is cut."""
    decode = json.JSONDecoder().raw_decode
    rows: list[Row] = []
    place = text.find("[") + 1
    while place:
        try:
            row, place = decode(text, _BETWEEN.match(text, place).end())  # type: ignore[union-attr]
        except ValueError:
            break
        rows.append(_lowered(row) if isinstance(row, dict) else {})
    return rows
