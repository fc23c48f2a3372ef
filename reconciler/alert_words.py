"""What people are told of alarms, in English and Chinese.

The English sentence is the alarm's own; the Chinese is made of its figures.
"""

from collections.abc import Callable, Mapping
from typing import Any, Literal

Language = Literal["en", "zh"]

KINDS: Mapping[Language, Mapping[str, str]] = {
    "en": {
        "silence": "silence",
        "loss": "receipts lost",
        "suspects": "suspect reports",
        "clock": "clock",
        "drift": "drift",
        "quarantine": "quarantine",
        "lost": "lost pages",
        "job": "job",
        "balance": "low balance",
        "budget": "budget",
        "spool": "spool",
        "disk": "disk",
        "erasure": "erasure",
        "channel": "alerts",
        "review": "review",
    },
    "zh": {
        "silence": "回执静默",
        "loss": "回执缺失",
        "suspects": "存疑回执",
        "clock": "时间偏差",
        "drift": "格式漂移",
        "quarantine": "隔离区",
        "lost": "丢失的页",
        "job": "任务异常",
        "balance": "余额不足",
        "budget": "超出预算",
        "spool": "磁盘缓冲",
        "disk": "磁盘空间",
        "erasure": "号码删除",
        "channel": "通知渠道",
        "review": "审核结果",
    },
}
WHAT: Mapping[Language, Mapping[str, str]] = {
    "en": {
        "began": "BEGAN",
        "stands": "STILL",
        "ended": "OVER",
        "came_and_went": "CAME AND WENT",
        "approved": "APPROVED",
        "rejected": "REJECTED",
    },
    "zh": {
        "began": "发生",
        "stands": "持续",
        "ended": "恢复",
        "came_and_went": "已恢复",
        "approved": "通过",
        "rejected": "驳回",
    },
}
_SUBJECTS = {
    "en": {"sign": "sign", "template": "template"},
    "zh": {"sign": "签名", "template": "模板"},
}


def title(language: Language, count: int) -> str:
    """Return the title of a message of `count` lines. "Huizhi" is in each: robots want a keyword."""
    if language == "zh":
        return f"Huizhi 回执：{count} 条通知"
    return f"Huizhi 回执: {count} {'alert' if count == 1 else 'alerts'}"


def sentence(language: str, kind: str, words: str, figures: Mapping[str, Any]) -> str:
    """Return an alarm's sentence; in English as long as nobody has put it into Chinese."""
    if language == "en":
        return words
    try:
        return _CHINESE[kind](figures)
    except (KeyError, IndexError):  # of an older version's figures
        return words


def verdict(language: Language, kind: str, vendor_id: str, name: str, reason: str) -> str:
    """Return the sentence on a reviewed sign or template, by its status's word in `WHAT`."""
    subject = _SUBJECTS[language][kind]
    if language == "zh":
        return f"{subject} {vendor_id} {name}".rstrip() + (f"：{reason}" if reason else "")
    return f"{subject} {vendor_id} {name}".rstrip() + (f": {reason}" if reason else "")


def test_message(language: Language) -> str:
    """Return what is sent to try a channel."""
    if language == "zh":
        return "这是一条测试消息：告警将发送到这里。"
    return "This is a test: alarms will be told here."


def _suspects(figures: Mapping[str, Any]) -> str:
    parts = []
    if figures["waiting"]:
        parts.append(f"{figures['waiting']} 条推送的回执待确认，暂不计入")
    if figures["contradicted"]:
        parts.append(f"最近一天有 {figures['contradicted']} 条与厂商的查询结果矛盾：可能有人伪造")
    return "；".join(parts)


def _balance(figures: Mapping[str, Any]) -> str:
    parts = []
    for each in figures["balances"]:
        lasts = "" if each["days"] is None else f"，按近期用量可用 {each['days']} 天"
        parts.append(f"{each['kind']}：剩余 {each['left']}{lasts}")
    return "；".join(parts)


_CHINESE: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
    "silence": lambda f: (
        f"最近 {f['minutes']} 分钟应有回执约 {f['expected']:.0f} 条，实到 {f['came']} 条："
        "回执已停止，或未到达本系统"
    ),
    "loss": lambda f: (
        f"最近 {f['minutes']} 分钟到达回执 {f['came']} 条，应有约 {f['expected']:.0f} 条：部分缺失或延迟"
    ),
    "suspects": _suspects,
    "clock": lambda f: (
        f"待确认的 {f['reports']} 条回执，时间均比到达时刻{'早' if f['hours'] < 0 else '晚'}"
        f" {abs(f['hours'])} 小时：应是时区设置有误，而非伪造"
    ),
    "drift": lambda f: f"一周内，厂商的报文出现了 {f['features']} 处新的字段、类型或状态码",
    "quarantine": lambda f: (
        f"最近一小时有 {f['hour']} 条、一天内有 {f['day']} 条记录未能（完全）解析；隔离区现有 {f['waiting']} 条"
    ),
    "lost": lambda f: f"最近一天可能丢失了 {f['pages']} 页一次性读取的回执：只有厂商能确认",
    "job": lambda f: (
        f"任务 {'、'.join(f['jobs'])} 失败或延误"
        + (f"，连续失败 {f['failures_in_row']} 次" if f["failures_in_row"] else "")
    ),
    "balance": _balance,
    "budget": lambda f: (
        f"{f['month']} 已超出预算 {f['budget']} {f['currency']}：按发送计 {f['sent']}，已到账单 {f['billed']}"
    ),
    "spool": lambda f: (
        f"主机 {f['host']} 的磁盘缓冲里有 {f['records']} 条回调等待入库，最早的已等待 {f['minutes']} 分钟"
    ),
    "disk": lambda f: f"主机 {f['host']} 上 data_dir 所在磁盘仅剩 {f['free_gib']} GiB",
    "erasure": lambda f: (
        f"{f['broken_off'] + f['held']} 项号码删除未完成：{f['broken_off']} 项中断，"
        f"{f['held']} 项留有当时正在发送或尚未处理的内容；请对该号码再执行一次"
    ),
    "channel": lambda f: f"通知渠道 {'、'.join(f['channels'])} 发送失败",
}
