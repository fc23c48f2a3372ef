"""Charsets, times, numbers and text as they come off the wire."""

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateways import wire
from gateways.errors import Malformed, Refused
from gateways.phone import international, masked, normalise, redacted

SHANGHAI = ZoneInfo("Asia/Shanghai")
TEXT = "空号，联通"


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (TEXT.encode(), ""),
        (TEXT.encode("utf-8-sig"), ""),
        (TEXT.encode(), "text/xml; charset=UTF-8"),
        (TEXT.encode(), "text/plain; charset=iso-8859-1"),
        (TEXT.encode(), "text/plain; charset=unheard-of"),
        (TEXT.encode("gbk"), ""),
        (TEXT.encode("gbk"), 'text/plain; charset="GB2312"'),
        (TEXT.encode("gbk"), "text/plain; charset=gbk"),
        (TEXT.encode("gbk"), "text/plain; charset=utf-8"),
        ("𠮷龘".encode("gb18030"), "text/plain; charset=gb2312"),
    ],
)
def test_charset_is_what_fits(body: bytes, content_type: str) -> None:
    assert wire.decode(body, content_type) in (TEXT, "𠮷龘")


def test_declared_charset_goes_before_utf8() -> None:
    ambiguous = "联通".encode("gbk")
    assert ambiguous.decode("utf-8", "replace") != "联通"
    assert wire.decode(b"\xc2\xa9", "text/plain; charset=gbk") == "漏"
    assert wire.decode(b"\xc2\xa9") == "©"
    prolog = b'<?xml version="1.0" encoding="gb2312"?><a>\xc2\xa9</a>'
    assert "漏" in wire.decode(prolog)
    assert "©" in wire.decode(prolog, "text/xml; charset=utf-8")


def test_dotnet_prolog_that_lies_about_utf16_is_passed_over() -> None:
    body = f'<?xml version="1.0" encoding="utf-16"?><a>{TEXT}</a>'.encode()
    assert TEXT in wire.decode(body)


def test_bytes_in_no_charset_are_malformed() -> None:
    with pytest.raises(Malformed, match="neither"):
        wire.decode(b"\xff\xff")


@pytest.mark.parametrize(
    "text",
    ["2021-04-20 04:21:30", "2021/4/20 4:21:30", "2021-4-20 04:21:30", " 2021-04-20 04:21:30 "],
)
def test_times_are_read_in_the_accounts_zone(text: str) -> None:
    time = wire.local_time(text, "receiveDate", SHANGHAI)
    assert time == datetime(2021, 4, 19, 20, 21, 30, tzinfo=UTC)
    assert time.tzinfo is UTC


@pytest.mark.parametrize(
    "value", [None, "", " ", "0000-00-00 00:00:00", "0001-01-01 00:00:00", "0001/1/1 0:00:00"]
)
def test_no_time_is_none(value: object) -> None:
    assert wire.local_time(value, "receiveDate", SHANGHAI) is None


@pytest.mark.parametrize(
    "value",
    [
        "2021-02-30 04:21:30",
        "2021-04-20 24:21:30",
        "2021-W01-1 04:21:30",
        "2021-04-20T04:21:30Z",
        "2021-04-20 04:21+01",
        "2021-04-20",
        "20210420 04:21:30",
        "２０２１-04-20 04:21:30",
        "0001-01-02 00:00:00x",
        1618863690,
        True,
        [],
    ],
)
def test_what_is_no_time_is_malformed(value: object) -> None:
    with pytest.raises(Malformed, match="receiveDate is not a time"):
        wire.local_time(value, "receiveDate", SHANGHAI)


def test_a_time_out_of_range_in_utc_is_malformed() -> None:
    with pytest.raises(Malformed):
        wire.local_time("9999-12-31 23:59:59", "receiveDate", ZoneInfo("America/New_York"))


@given(st.datetimes())
def test_every_time_comes_back(moment: datetime) -> None:
    moment = moment.replace(microsecond=0, year=min(max(moment.year, 2), 9998), day=1)
    for text in (
        moment.isoformat(" "),
        f"{moment.year:04}/{moment.month}/{moment.day} {moment.hour}:{moment.minute}:{moment.second}",
    ):
        time = wire.local_time(text, "t", ZoneInfo("Etc/GMT-8"))
        assert time is not None
        assert time.astimezone(ZoneInfo("Etc/GMT-8")).replace(tzinfo=None) == moment


@pytest.mark.parametrize("text", ["a\0", "\ud800"])
def test_text_that_cannot_be_stored_is_malformed(text: str) -> None:
    for read in (wire.identity, wire.code, wire.words):
        with pytest.raises(Malformed, match="field"):
            read(text, "field")


def test_ids_are_one_to_128_characters() -> None:
    assert wire.identity(" 6055075678d9 ", "id") == "6055075678d9"
    assert wire.identity(10**30, "id") == "1" + "0" * 30
    assert wire.identity("编" * 128, "id") == "编" * 128
    for bad in ("", " ", "6" * 129):
        with pytest.raises(Malformed, match="id is empty or longer than 128"):
            wire.identity(bad, "id")


def test_codes_are_kept_as_they_are_up_to_128_characters() -> None:
    assert wire.code(" -1", "status") == " -1"
    with pytest.raises(Malformed, match="status is longer than 128"):
        wire.code("x" * 129, "status")


@pytest.mark.parametrize(("value", "said"), [("", None), (None, None), ([], None), (False, None)])
def test_nothing_said_is_none(value: object, said: str | None) -> None:
    assert wire.words(value, "message") is said


def test_words_are_kept() -> None:
    assert wire.words(" 空号 ", "message") == "空号"
    assert wire.words(0, "message") == "0"
    with pytest.raises(Malformed, match="message is not text"):
        wire.words({"a": 1}, "message")


@pytest.mark.parametrize(
    ("phone", "digits"),
    [
        ("13509898765", "13509898765"),
        (13509898765, "13509898765"),
        ("+86 135-0989-8765", "13509898765"),
        ("008613509898765", "13509898765"),
        ("8613509898765", "13509898765"),
        ("１３５０９８９８７６５", "13509898765"),
        ("+44 20 7946 0018", "442079460018"),
        ("10690000123456789012", "10690000123456789012"),
        ("", ""),
    ],
)
def test_phones_have_one_spelling(phone: str | int, digits: str) -> None:
    assert normalise(phone) == digits


@given(st.text(alphabet="0123456789+- ８٣a", max_size=25))
def test_normalising_twice_changes_nothing(phone: str) -> None:
    assert normalise(normalise(phone)) == normalise(phone)


@pytest.mark.parametrize(
    ("number", "digits"),
    [
        ("13900000000", "8613900000000"),
        ("8613900000000", "8613900000000"),
        ("+86 139 0000 0000", "8613900000000"),
        ("0086-13900000000", "8613900000000"),
        ("+1 390 555 0100 0", "139055501000"),
        ("+13905550100", "13905550100"),
        ("91856321412", "91856321412"),
        ("+８６13900000000", "8613900000000"),
        ("10690000", "10690000"),
    ],
)
def test_international_numbers_have_their_country_code(number: str, digits: str) -> None:
    assert international(number) == digits


@pytest.mark.parametrize("phone", ["", "+", "13509898765,13800138000"])
def test_what_is_no_phone_is_malformed(phone: str) -> None:
    with pytest.raises(Malformed, match="mobile is no phone number"):
        wire.phone(phone, "mobile")


def test_numbers_are_masked_in_texts_for_people() -> None:
    assert masked("13509898765") == "…8765"
    assert masked("10086") == "…"
    assert redacted("13509898765 空号 40301") == "…8765 空号 40301"
    refused = Refused("7", "号码13509898765超限")
    assert "13509898765" not in str(refused)
    assert refused.words == "号码13509898765超限"


def test_problems_are_listed_shortly() -> None:
    assert wire.listed(["a", "b"]) == "a; b"
    assert wire.listed(list("abcde")) == "a; b; c; and 2 more"


@pytest.mark.parametrize(
    ("text", "deep"),
    [
        ("[" * 64 + "]" * 64, False),
        ("[" * 65 + "]" * 65, True),
        ("[]" * 1000, False),
        ('"' + "[" * 1000 + '"', False),
        ('"\\"' + "[" * 1000 + '"', False),
    ],
)
def test_depth_counts_brackets_outside_of_text(text: str, deep: bool) -> None:
    assert wire.too_deep(text) is deep
