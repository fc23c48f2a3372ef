"""itniotech's codes, with its pages' words behind each."""

from collections.abc import Mapping

from gateways.events import Status

QUERY, LIST, PUSH = "getReport", "getSentRcd", "push"

# One number means different things in different places: a status is read by its channel's table.
REPORT_STATUS: Mapping[str, Mapping[str, Status]] = {
    QUERY: {
        "0": Status.DELIVERED,  # sent successfully
        "-1": Status.PENDING,  # 发送中
        "1": Status.FAILED,  # sent failed
    },
    LIST: {
        "0": Status.DELIVERED,  # sent successfully
        "2": Status.FAILED,  # sent failed
    },
    PUSH: {
        "0": Status.DELIVERED,  # 0成功,其它失败: see `documents.pushed_report` for the others
    },
}

# `status` of a reply that went well.
SUCCESS = "0"

# The vendor's own failures (platform, 端口程序异常): of a send they leave open what was done.
UNDECIDED = frozenset({"-12", "-18"})

# The page of status codes, with what to do where that is not the sender's to know.
REFUSALS: dict[str, str] = {
    "-1": "the key or the signature is wrong: look at api_key and api_secret",
    "-2": "this address (IP) is not allowed: have the vendor list it",
    "-3": "the text has sensitive words",
    "-4": "the text is empty",
    "-5": "the text is too long",
    "-6": "the text is not that of a template",
    "-7": "too many numbers",
    "-8": "the number is missing",
    "-9": "a number is not one",
    "-10": "the balance is too low",
    "-11": "a time is written wrong",
    "-12": "the vendor's platform failed",
    "-13": "the account is locked",
    "-14": "a field or an id is missing",
    "-15": "asked too often: ask later",
    "-16": "the timestamp is out of range: set this machine's clock",
    "-17": "the template is empty",
    "-18": "the vendor's port failed",
    "-19": "no price or channel is bound to the account: ask the vendor's staff",
    "-20": "it exists already",
    "-21": "the request did not pass the vendor's checks",
    "-22": "a parameter is wrong",
    "-23": "a limit of the account is reached",
    "-24": "it does not exist",
    "-25": "the span of time is out of range",
    "-26": "the vendor could not charge for it",
    "-27": "the limit of the period is reached",
    "-28": "the limit for this number is reached",
    "-29": "the workspace is switched off",
    "-30": "the key is switched off",
    "-31": "this address (IP) is not in the key's list",
    "-32": "the key has no right to this application: look at app_id",
}
