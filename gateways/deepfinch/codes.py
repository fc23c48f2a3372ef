"""deepfinch's code words, and the texts of the gateway in front of it, with what they mean."""

from gateways.events import Status

# Nothing is reported back, so there is no status of a report.
REPORT_STATUS: dict[str, Status] = {}

TAKEN = "OK"

# 返回码定义: the page's words behind each. The last one stands in the sample of a failure only. A
# word that is not here is a refusal too.
CODE_WORDS: dict[str, str] = {
    "DETECTION_FAILED": "核验测失败",
    "RATE_LIMIT_EXCEEDED": "调用频率超出限额",
    "INTERNAL_ERROR": "服务器内部错误",
    "INVALID_ARGUMENT": "",
}
EXPLANATIONS: dict[str, str] = {
    "DETECTION_FAILED": "the text did not pass the vendor's check",
    "RATE_LIMIT_EXCEEDED": "sent too fast, or too much: send later",
    "INVALID_ARGUMENT": "number, template or variables do not fit each other",
}
# A program can fail after it has done the work.
UNDECIDED = frozenset({"INTERNAL_ERROR"})

# What stands for the vendor's code where the gateway refused: no code word is in lower case.
GATEWAY = "gateway"

_DATE = "this machine's clock is more than 15 minutes off, or a proxy changed the date header"
_HEADER = "a proxy on the way took a header away or changed it"
_KEY = "the secret_id is unknown, disabled, or not bound to this API"
_PLAN = "the plan (套餐) has run out, or the API is not bound to it"
_PLACE = (
    "the address is not that of the API: look at base_url and send_path;"
    " Tencent is shutting these hosts down"
)
_FORM = "the request did not arrive as the form that was sent"
_REST = "the gateway could not verify the request"

# How the gateway's errors begin, in lower case, the narrower first; and what to do about them.
# Tencent's own lists (the two disagree on the statuses, and on how some begin).
GATEWAY_ERRORS: dict[str, str] = {
    "hmac apikey is invalid for api": _KEY,
    "hmac signature cannot be verified, a validate authorization": _HEADER,
    "hmac signature cannot be verified, the x-date header is out of date": _DATE,
    "hmac signature cannot be verified, a valid x-date header": _DATE,
    "hmac signature cannot be verified, a valid date": _DATE,
    "hmac signature cannot be verified, a valid": _HEADER,
    "hmac signature cannot be verified": _KEY,
    "hmac signature does not match": "the secret_key is wrong, or a proxy changed a signed header",
    "hmac do not support multiple http header": "a proxy on the way doubled a header",
    "hmac algorithm": "the gateway no longer takes hmac-sha1",
    "hmac authorization": _HEADER,
    "hmac id or signature missing": _HEADER,
    "hmac": _REST,
    "authorization headers is invalidate": _HEADER,
    "id or signature missing": _HEADER,
    "found no validate usage plan": _PLAN,
    "endpoint ip address is not allowed": "the gateway does not let this address in",
    "cannot identify the client ip": "the gateway does not let this address in",
    "req content type need": _FORM,
    "body param": _FORM,
    "not found host": _PLACE,
    "get host fail": _PLACE,
    "could not support method": _PLACE,
    "method not allowed": _PLACE,
    "there is no api match": _PLACE,
    "found no api": _PLACE,
    "not found micro service": _PLACE,
    "not allow use http": _PLACE,
}

# The gateway passed the request on, and does not know what became of it.
GATEWAY_UNDECIDED = (
    "internal server error",
    "error occurred during",
    "bad gateway",
    "gateway time-out",
)
