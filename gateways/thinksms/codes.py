"""The codes of the "sms.aspx" platform, with its documents' words behind each."""

from gateways.events import Status

REPORT_STATUS: dict[str, Status] = {
    "10": Status.DELIVERED,  # 成功
    "20": Status.FAILED,  # 失败
    # Some hosts put the carrier's words there; SMPP 3.4, 5.2.28.
    "DELIVRD": Status.DELIVERED,
    "UNDELIV": Status.FAILED,
    "EXPIRED": Status.FAILED,
    "REJECTD": Status.FAILED,
    "DELETED": Status.FAILED,
    "ENROUTE": Status.PENDING,
    "ACCEPTD": Status.PENDING,
}

FAILED = "20"

# A public client takes 20 with such an errorcode for a message still under way.
STILL_PENDING = "ACCEPTD"

# How `returnstatus` of a call that went well begins, in any case; a balance query spells it with
# one c, and some hosts write the Chinese word behind it.
SUCCESS = ("success", "sucess")

# `error` of the JSON fork for success. In XML the same number says: account or password empty.
FORK_SUCCESS = "1"

FORBIDDEN_WORDS = "forbidden_words"

# The platform says no in words only. What names forbidden words may quote the sender's text, so it
# is looked for first; "sign参数错误" is of the signed calls, 签名 is what stands in 【】.
REFUSALS: dict[str, tuple[str, ...]] = {
    FORBIDDEN_WORDS: ("敏感词", "非法字符", "屏蔽词", "关键词", "关键字", "SQL"),
    "credentials": ("用户名或密码", "账号或密码", "帐号或密码", "密码错误", "sign参数"),
    "balance": ("余额", "欠费"),
    "sign": ("签名",),
    "phone_missing": ("号码为空", "号码不能为空"),
    "content_missing": ("内容为空", "内容不能为空"),
}

EXPLANATIONS: dict[str, str] = {
    FORBIDDEN_WORDS: "the text has words that the vendor forbids: `huizhi keyword check` names them",
    "credentials": "user_id, account or password is wrong, or the account's standing is",
    "balance": "the balance is too low",
    "sign": "the sign (签名) is missing, or not one that the vendor has approved",
    "phone_missing": "the number is missing",
    "content_missing": "the text is missing",
}

# 没有包含屏蔽词 and its like: the answer to a keyword check that found nothing.
NONE_FOUND = ("没有", "不包含", "不含", "未包含", "未含", "未发现", "无")


def refusal(words: str) -> str | None:
    """Return our word for the vendor's reason, None where its words are none that are known."""
    folded = words.casefold()
    for code, signs in REFUSALS.items():
        if any(sign.casefold() in folded for sign in signs):
            return code
    return None
