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
