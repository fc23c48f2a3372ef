"""Reading values off the wire: charsets, local times, and text that PostgreSQL can store.

Everything here raises `Malformed` with a reason that names a field and never quotes its value.
"""

import codecs
import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from itertools import accumulate
from typing import TypeVar
from zoneinfo import ZoneInfo

import msgspec

from gateways.errors import Malformed
from gateways.events import Event, Parsed
from gateways.phone import normalise

T = TypeVar("T")
Row = TypeVar("Row")

LONGEST_ID = 128
LONGEST_CODE = 128
LONGEST_PHONE = 20  # E.164 has 15 digits, access codes (1069...) up to 20

# gb2312 and gbk are declared where gb18030, their superset, is sent. Any other name (a server's
# default iso-8859-1, .NET's utf-16 in a UTF-8 document) is a declaration not to be believed.
_CODECS = {
    "utf-8": "utf-8",
    "utf8": "utf-8",
    "us-ascii": "utf-8",
    "gb2312": "gb18030",
    "gbk": "gb18030",
    "gb18030": "gb18030",
}
_CHARSET = re.compile(r"""charset\s*=\s*["']?([\w.:-]+)""", re.IGNORECASE)
_PROLOG = re.compile(rb"""\s*<\?xml[^>]{0,200}?encoding\s*=\s*["']([\w.:-]+)""", re.IGNORECASE)
_NO_CHARSET = "the bytes are neither UTF-8 nor GB18030"
_BOM = b"\xef\xbb\xbf"

_TIME = re.compile(r"(\d{4})[-/](\d{1,2})[-/](\d{1,2})[ T](\d{1,2}):(\d{1,2}):(\d{1,2})", re.ASCII)
# How MySQL and .NET spell "no time".
_NO_TIME = ("0000-00-00", "0001-01-01", "0001/1/1")

_SURROGATE = re.compile("[\ud800-\udfff]")
_NO_BRACKET = re.compile(r'"(?:[^"\\]|\\.)*+"?|[^"\[\]{}]++', re.DOTALL)
_STEP = {"[": 1, "{": 1, "]": -1, "}": -1}
_DEEPEST = 64

# Vendors' samples have a few hundred bytes; reading what is no JSON is slow.
_LONGEST_REPAIRED = 32 * 1024

# What almost-JSON is made of. Each alternative is possessive or bounded: linear time.
_STRING = r"""
    "(?P<double>(?:[^"\\]|\\.)*+)" | '(?P<single>(?:[^'\\]|\\.)*+)'
"""
_REST = r"""
    | (?P<blank>\s++) | (?P<mark>[{}\[\]:,]) | (?P<literal>[^\s"'{}\[\]:,/]++)
"""
_LINES = re.compile(rf"{_STRING} {_REST} | (?P<comment>//[^\n]*+)", re.VERBOSE | re.DOTALL)
# Where the line breaks were lost, as in copies of a page, a comment ends before the next key or
# closing brace.
_ONE_LINE = re.compile(
    rf"""{_STRING} {_REST}
    | (?P<comment>//.*?(?=[}}\]]|'[A-Za-z_]{{1,32}}'[ ]{{0,8}}:|"[A-Za-z_]{{1,32}}"[ ]{{0,8}}:))
    """,
    re.VERBOSE | re.DOTALL,
)
_INSIDE = re.compile(r'\\.|"', re.DOTALL)


def decode(body: bytes, content_type: str = "") -> str:
    """Return `body` as text, by HTTP charset, XML prolog, strict UTF-8, gb18030, in that order.

    A declaration that does not fit the bytes is passed over; a last character that was cut is left
    out, for what came before a cut still counts. Raises `Malformed` if nothing fits.
    """
    body = body.removeprefix(_BOM)
    prolog = _PROLOG.match(body)
    declared = prolog[1].decode("ascii", "replace") if prolog else ""
    for codec in _codecs(content_type, declared):
        try:
            return codecs.getincrementaldecoder(codec)().decode(body)
        except UnicodeDecodeError:
            continue
    raise Malformed(_NO_CHARSET)


def decode_all(parts: Sequence[bytes], content_type: str = "") -> list[str]:
    """Return `parts` as texts, all in the first charset that fits all of them; see `decode`."""
    for codec in _codecs(content_type):
        try:
            return [part.decode(codec) for part in parts]
        except UnicodeDecodeError:
            continue
    raise Malformed(_NO_CHARSET)


def _codecs(content_type: str, prolog: str = "") -> dict[str, None]:
    declared = _CHARSET.search(content_type)
    names = (declared[1] if declared else "", prolog, "utf-8", "gb18030")
    return dict.fromkeys(_CODECS[name.lower()] for name in names if name.lower() in _CODECS)


def too_deep(text: str) -> bool:
    """Tell whether JSON `text` nests deeper than any vendor's, before a parser recurses into it."""
    if text.count("{") + text.count("[") <= _DEEPEST:
        return False
    brackets = _NO_BRACKET.sub("", text)
    return max(accumulate(map(_STEP.__getitem__, brackets)), default=0) > _DEEPEST


def read_json(body: bytes, decoder: msgspec.json.Decoder[T]) -> T:
    """Return `body` as what `decoder` reads: JSON, or the almost-JSON of vendors' pages.

    Raises `Malformed`. Linear in the size of `body`, bounded in depth.
    """
    try:
        text = body.removeprefix(_BOM).decode()
    except UnicodeDecodeError:
        raise Malformed("not UTF-8") from None
    if not text:
        raise Malformed("empty")
    if too_deep(text):
        raise Malformed("nested too deep")
    try:
        return decoder.decode(text)
    except msgspec.ValidationError as error:
        raise Malformed(str(error)) from None
    except msgspec.DecodeError as error:
        if len(text) > _LONGEST_REPAIRED:
            raise Malformed(str(error)) from None
    try:
        return decoder.decode(repaired(text))
    except msgspec.DecodeError as error:
        raise Malformed(str(error)) from None


def repaired(text: str) -> str:
    """Return `text` as JSON where it differs in just the ways that vendors' pages do.

    Single quotes, `//` comments, a comma missing before a key, a comma before a closing bracket.
    Raises `Malformed` for anything else; what comes out is still to be read strictly.
    """
    text = text.strip()
    token = (_LINES if "\n" in text else _ONE_LINE).match
    written: list[str] = []
    place = 0
    before = ""  # the last token written: a mark, or "value"
    while place < len(text):
        found = token(text, place)
        if found is None:
            raise Malformed("not JSON")
        place = found.end()
        kind = found.lastgroup
        if kind in ("blank", "comment"):
            continue
        this = found[0]
        if kind == "mark":
            if this in "}]" and before == ",":
                written.pop()
            before = "value" if this in "}]" else this
        else:
            if kind == "single":
                this = f'"{_INSIDE.sub(_requoted, found["single"])}"'
            if before == "value" and kind != "literal":
                written.append(",")
            before = "value"
        written.append(this)
    return "".join(written)


def _requoted(found: re.Match[str]) -> str:
    return {"\\'": "'", '"': '\\"'}.get(found[0], found[0])


def storable(text: str, field: str) -> str:
    """Return `text` if PostgreSQL can store it: no NUL, no lone surrogate."""
    if "\0" in text or (not text.isascii() and _SURROGATE.search(text)):
        raise Malformed(f"{field} holds a character that is no text")
    return text


def identity(value: str | int, field: str) -> str:
    """Return a vendor's id as text: 1 to 128 characters, without surrounding blanks."""
    text = str(value).strip()
    if not 1 <= len(text) <= LONGEST_ID:
        raise Malformed(f"{field} is empty or longer than {LONGEST_ID} characters")
    return storable(text, field)


def code(value: str | float, field: str) -> str:
    """Return a vendor's code exactly as text; which codes exist is not decided here."""
    text = str(value)
    if len(text) > LONGEST_CODE:
        raise Malformed(f"{field} is longer than {LONGEST_CODE} characters")
    return storable(text, field)


def phone(value: str | int, field: str) -> str:
    """Return a phone number normalised."""
    digits = normalise(value)
    if not 1 <= len(digits) <= LONGEST_PHONE:
        raise Malformed(f"{field} is no phone number")
    return digits


def words(value: object, field: str) -> str | None:
    """Return optional text, None for what vendors write for nothing: null, "", [] or false."""
    if isinstance(value, str):
        return storable(value.strip(), field) or None
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    if not value:
        return None
    raise Malformed(f"{field} is not text")


def local_time(value: object, field: str, zone: ZoneInfo) -> datetime | None:
    """Return a time without zone, written in `zone`, as UTC; None for null, empty and zero times.

    Takes dashes or slashes, with or without zero padding.
    """
    if value is None or value == "":
        return None
    if not isinstance(value, str):
        raise Malformed(f"{field} is not a time")
    try:
        # fromisoformat alone reads week dates and offsets too: the shape is checked first.
        if len(value) == 19 and value[4::3] == "-- ::":
            return _utc(value, zone)
        text = value.strip()
        if not text:
            return None
        shape = _TIME.fullmatch(text)
        if shape is None:
            raise ValueError
        year, month, day, hour, minute, second = map(int, shape.groups())
        return datetime(year, month, day, hour, minute, second, tzinfo=zone).astimezone(UTC)
    except (ValueError, OverflowError):
        if value.strip().startswith(_NO_TIME):
            return None
        raise Malformed(f"{field} is not a time") from None


@lru_cache(maxsize=4096)  # thousands of reports may be of one second
def _utc(text: str, zone: ZoneInfo) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=zone).astimezone(UTC)


def read_rows(
    rows: Sequence[Row], read: Callable[[Row], Event], fault: str | None = None
) -> Parsed:
    """Return what `read` makes of each row; a row that it finds `Malformed` is a problem, as is `fault`."""
    events: list[Event] = []
    problems: list[str] = []
    for number, row in enumerate(rows, 1):
        try:
            events.append(read(row))
        except Malformed as error:
            problems.append(f"row {number}: {error}")
    if fault:
        problems.append(fault)
    return Parsed(events=tuple(events), rows=len(rows), problems=tuple(problems))


def listed(problems: Sequence[str], most: int = 3) -> str:
    """Return the first few of `problems` as one line."""
    rest = len(problems) - most
    return "; ".join(problems[:most]) + (f"; and {rest} more" if rest > 0 else "")
