"""What ThinkAPI's page asks of signs and templates, as data: said before they are submitted."""

import re
from collections.abc import Iterable

from gateways.events import ReviewKind

# 签名提交注意事项, 模板提交注意事项.
SIGN_BRACKETS = "【】[]"
TEMPLATE_BRACKETS = "【】"  # taken for a sign: the text is slow, or intercepted
SIGN_WORDS = ("测试",)  # 不要使用带有测试字样的签名
RESERVED_VARIABLES = ("id", "email", "mobile", "nick", "site")
MOST_VARIABLES = 8

VARIABLE = re.compile(r"\$\{([^{}]*)\}")
VARIABLE_NAME = re.compile(r"[A-Za-z_]+")
_LONGEST_SHOWN = 40


def review_warnings(kind: ReviewKind, name: str, content: str | None) -> tuple[str, ...]:
    """Say, a sentence each, what the page has against a sign or template; empty if nothing. Pure."""
    if kind == ReviewKind.SIGN:
        return tuple(_of_sign(name))
    return tuple(_of_template(content or ""))


def _of_sign(name: str) -> list[str]:
    found = [f"the sign has {mark}" for mark in _held(name, SIGN_BRACKETS)]
    # The page forbids 任何特殊字符 and names the brackets only; letters and digits are none, in any
    # script.
    special = dict.fromkeys(
        mark for mark in name if not mark.isalnum() and mark not in SIGN_BRACKETS
    )
    if special:
        found.append(f"the sign has special characters: {_shown(special)}")
    found += [f"the sign has the word {word}" for word in SIGN_WORDS if word in name]
    return found


def _of_template(content: str) -> list[str]:
    found = [
        f"the template has {mark}, which is taken for a sign"
        for mark in _held(content, TEMPLATE_BRACKETS)
    ]
    variables = VARIABLE.findall(content)
    wrong = dict.fromkeys(each for each in variables if not VARIABLE_NAME.fullmatch(each))
    if wrong:
        found.append(
            "variables are named by letters a to z and underscores only: "
            + _shown([f"${{{each}}}" for each in wrong])
        )
    if reserved := [each for each in RESERVED_VARIABLES if each in variables]:
        found.append(f"variable names that the vendor keeps to itself: {_shown(reserved)}")
    # Whether one that stands twice counts once is not said: it is counted twice.
    if len(variables) > MOST_VARIABLES:
        found.append(f"{len(variables)} variables; at most {MOST_VARIABLES} are taken")
    if re.search(r"[{}]", VARIABLE.sub("", content)):
        found.append("a { or } stands outside a variable, which is written ${name}")
    return found


def _held(text: str, marks: str) -> list[str]:
    return [mark for mark in marks if mark in text]


def _shown(things: Iterable[str]) -> str:
    text = " ".join(repr(thing)[1:-1] for thing in things)
    return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}…"
