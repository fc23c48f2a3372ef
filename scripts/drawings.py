"""Draws the two pictures of docs/architecture.md: `python scripts/drawings.py` writes them anew.

Plain SVG, by coordinates, in the two languages; dark where the reader's system is.
"""

from html import escape
from pathlib import Path

PICTURES = Path(__file__).resolve().parent.parent / "docs" / "pictures"
FONT = "system-ui, -apple-system, 'Segoe UI', 'PingFang SC', 'Microsoft YaHei', 'Noto Sans CJK SC', 'Noto Sans SC', sans-serif"  # noqa: E501
STYLE = f"""
  .paper {{ fill: #ffffff }} .ink {{ fill: #1c2733 }} .soft {{ fill: #55636f }}
  .line {{ stroke: #55636f; stroke-width: 1.6; fill: none }} .tip {{ fill: #55636f }}
  .dash {{ stroke-dasharray: 6 4 }}
  .zone {{ fill: #f4f6f8; stroke: #c3ccd4; stroke-width: 1.2 }}
  .ours {{ fill: #e3eefb; stroke: #3d7cc9; stroke-width: 1.5 }}
  .kept {{ fill: #e6f4e7; stroke: #43934c; stroke-width: 1.5 }}
  .theirs {{ fill: #fdf1dc; stroke: #c98a1b; stroke-width: 1.5 }}
  .bad {{ fill: #fbe7e6; stroke: #c4483f; stroke-width: 1.5 }}
  @media (prefers-color-scheme: dark) {{
    .paper {{ fill: #11171d }} .ink {{ fill: #e8edf2 }} .soft {{ fill: #a7b3be }}
    .line {{ stroke: #a7b3be }} .tip {{ fill: #a7b3be }}
    .zone {{ fill: #182028; stroke: #3a4650 }}
    .ours {{ fill: #17304d; stroke: #5d9be6 }}
    .kept {{ fill: #16331b; stroke: #5fb36a }}
    .theirs {{ fill: #3a2c10; stroke: #d9a345 }}
    .bad {{ fill: #421c1a; stroke: #e0716a }}
  }}
  text {{ font-family: {FONT}; font-size: 14px }}
  .title {{ font-size: 16px; font-weight: 600 }} .small {{ font-size: 12.5px }}
"""


class Drawing:
    """An SVG that grows by boxes, arrows and words."""

    def __init__(self, width: int, height: int, title: str) -> None:
        self._parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}"'
            f' width="{width}" height="{height}" role="img">',
            f"<title>{escape(title)}</title>",
            f"<style>{STYLE}</style>",
            '<defs><marker id="tip" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="8"'
            ' markerHeight="8" orient="auto-start-reverse">'
            '<path class="tip" d="M0 0 10 5 0 10z"/></marker></defs>',
            f'<rect class="paper" width="{width}" height="{height}"/>',
        ]

    def box(
        self, kind: str, x: int, y: int, width: int, height: int, title: str, *lines: str
    ) -> None:
        """Draw a box with a title and lines below it."""
        self._parts.append(
            f'<rect class="{kind}" x="{x}" y="{y}" width="{width}" height="{height}" rx="8"/>'
        )
        self.words(x + 14, y + 25, title, "title ink")
        for number, line in enumerate(lines):
            self.words(x + 14, y + 47 + 19 * number, line, "small ink")

    def words(self, x: int, y: int, text: str, kind: str = "small soft", at: str = "start") -> None:
        """Write one line."""
        self._parts.append(
            f'<text class="{kind}" x="{x}" y="{y}" text-anchor="{at}">{escape(text)}</text>'
        )

    def arrow(self, path: str, *, dashed: bool = False, both: bool = False) -> None:
        """Draw a line that ends in a tip."""
        start = ' marker-start="url(#tip)"' if both else ""
        dash = " dash" if dashed else ""
        self._parts.append(f'<path class="line{dash}" d="{path}"{start} marker-end="url(#tip)"/>')

    def text(self) -> str:
        """Return the file."""
        return "\n".join([*self._parts, "</svg>", ""])


HOUSE = {
    "en": {
        "title": "The house: processes, tables, folders, vendors",
        "vendors": ("Vendors", "ThinkAPI · thinksms", "1cloudsp · itniotech", "deepfinch"),
        "internet": "the internet",
        "machine": "your network",
        "receiver": (
            "Receivers, port 8080",
            "huizhi receiver, one process a core",
            "socket → group commit → acknowledgement",
            "parse, settle, fold",
        ),
        "reconciler": (
            "Reconciler, port 8081",
            "huizhi reconciler",
            "API /v1 · dashboard / · /metrics",
            "jobs, each under a lease: settle, query,",
            "pull, sweep, link, watch, purge",
        ),
        "postgres": ("PostgreSQL, yours or embedded",),
        "tables": (
            ("what came", "records · batches · quarantine"),
            ("what it says", "reports · suspects · inbound · reviews"),
            ("what was sent", "messages · awaiting · sends · submissions"),
            ("what was billed", "statements · lines · runs · discrepancies"),
            ("what people did", "cases · credits · periods · operator_actions"),
            ("proof", "chain_links · chain_entries"),
            ("work", "jobs · leases · pulls · sweeps · alarms"),
        ),
        "data": (
            "data_dir, on a local disk",
            "spool/   callbacks while PostgreSQL is away",
            "pages/   read-once pages on their way in",
            "metrics/   counts of all processes",
            "postgres/   the embedded server",
        ),
        "apps": ("Your applications", "POST /v1/sent, /v1/messages", "Python client, outbox"),
        "people": ("Finance, on call", "dashboard"),
        "shell": ("Commands", "huizhi …", "straight to PostgreSQL"),
        "watch": ("Prometheus", "GET /metrics"),
        "push": ("pushes;", "200 only when durable"),
        "ask": "asks, pulls, sends",
        "store": "commits",
        "spool": ("fsync,", "drained later"),
        "work": "reads, writes",
        "page": "page first, then parse",
    },
    "zh": {
        "title": "房子：进程、表、目录、厂商",
        "vendors": ("厂商", "ThinkAPI · thinksms", "1cloudsp · itniotech", "deepfinch"),
        "internet": "公网",
        "machine": "您的内网",
        "receiver": (
            "接收端，端口 8080",
            "huizhi receiver，每核一个进程",
            "套接字 → 成组提交 → 应答",
            "解析、结算、折叠",
        ),
        "reconciler": (
            "对账端，端口 8081",
            "huizhi reconciler",
            "API /v1 · 看板 / · /metrics",
            "任务，各持租约：结算、补查、",
            "拉取、巡查、入链、告警、清除",
        ),
        "postgres": ("PostgreSQL，自备或内嵌",),
        "tables": (
            ("来了什么", "records · batches · quarantine"),
            ("说了什么", "reports · suspects · inbound · reviews"),
            ("发了什么", "messages · awaiting · sends · submissions"),
            ("计费了什么", "statements · lines · runs · discrepancies"),
            ("人做了什么", "cases · credits · periods · operator_actions"),
            ("证明", "chain_links · chain_entries"),
            ("工作", "jobs · leases · pulls · sweeps · alarms"),
        ),
        "data": (
            "data_dir，本地磁盘",
            "spool/   PostgreSQL 不可用时的回调",
            "pages/   在途的一次性读取页",
            "metrics/   各进程的计数",
            "postgres/   内嵌的服务器",
        ),
        "apps": ("您的应用", "POST /v1/sent、/v1/messages", "Python 客户端、发件箱"),
        "people": ("财务、值班", "看板"),
        "shell": ("命令行", "huizhi …", "直接连接 PostgreSQL"),
        "watch": ("Prometheus", "GET /metrics"),
        "push": ("推送；", "落盘后才答 200"),
        "ask": "补查、拉取、发送",
        "store": "提交",
        "spool": ("fsync，", "稍后入库"),
        "work": "读写",
        "page": "先存页，后解析",
    },
}

WAY = {
    "en": {
        "title": "A receipt's way through the house",
        "steps": (
            ("theirs", "Vendor", "POST /callbacks/{account}/{token}, once"),
            ("ours", "1  Socket", "token, method, network, size, rate"),
            ("ours", "2  Group commit", "all that wait share one commit"),
            ("kept", "3  Record", "raw bytes and their digest: records, batches"),
            ("theirs", "4  Acknowledgement", "200 and the vendor's own word"),
            ("ours", "5  Parse", "pure: the same bytes give the same reports"),
            ("kept", "6  Settle", "into the set of the message's reports"),
            ("ours", "7  Fold", "state = a function of the whole set"),
            ("kept", "8  Message", "delivered, failed … ; it leaves awaiting"),
        ),
        "turned": ("bad", "Turned away, nothing stored", "404 forged · 403 foreign · 413 · 429"),
        "spool": (
            "kept",
            "Spool",
            "no commit within 1 s, or PostgreSQL away:",
            "fsync to data_dir/spool, then 200;",
            "drained into records, oldest first",
        ),
        "full": ("bad", "503", "neither takes it: not thanked for"),
        "left": (
            "ours",
            "Taken up",
            "a process died after the commit:",
            "whoever is there settles the batch after 10 s",
        ),
        "quarantine": ("kept", "Quarantine", "not understood: bytes kept, replay later"),
        "aside": (
            "kept",
            "Orphan · suspect",
            "message not registered yet: waits, joins;",
            "number, time or network wrong: does not count",
        ),
        "recovery": (
            "ours",
            "Recovery: what no push brought",
            "query by id · sweep of a list · read-once pull",
            "pull: intent → page → file → PostgreSQL",
        ),
        "chain": ("kept", "Chain", "every record is linked, within minutes"),
        "again": "the reply is a record too",
        "fails": "fails",
    },
    "zh": {
        "title": "一份回执走过的路",
        "steps": (
            ("theirs", "厂商", "POST /callbacks/{account}/{token}，只推一次"),
            ("ours", "1  套接字", "令牌、方法、网段、大小、速率"),
            ("ours", "2  成组提交", "同时等待的共用一次提交"),
            ("kept", "3  记录", "原始字节及其摘要：records、batches"),
            ("theirs", "4  应答", "200，以及厂商自己的成功内容"),
            ("ours", "5  解析", "纯函数：相同的字节得到相同的报告"),
            ("kept", "6  结算", "加入该短信的报告集合"),
            ("ours", "7  折叠", "状态 = 整个集合的函数"),
            ("kept", "8  短信", "delivered、failed …；离开 awaiting"),
        ),
        "turned": ("bad", "拒收，什么也不存", "404 伪造 · 403 网段 · 413 · 429"),
        "spool": (
            "kept",
            "磁盘缓冲",
            "1 秒内未提交，或 PostgreSQL 不可用：",
            "fsync 到 data_dir/spool，然后答 200；",
            "之后存入 records，最早的在前",
        ),
        "full": ("bad", "503", "两处都存不下：不说“收到”"),
        "left": ("ours", "接手", "提交之后进程死了：", "10 秒后由任何进程结算该批"),
        "quarantine": ("kept", "隔离", "看不懂：字节留着，以后重新解析"),
        "aside": (
            "kept",
            "孤儿报告 · 存疑回执",
            "短信尚未登记：等待，归位；",
            "号码、时间或网段不符：不算数",
        ),
        "recovery": (
            "ours",
            "补回：推送没有带来的",
            "按 ID 查询 · 巡查列表 · 一次性拉取",
            "拉取：意图 → 页 → 文件 → PostgreSQL",
        ),
        "chain": ("kept", "链", "每条记录几分钟内入链"),
        "again": "应答也是一条记录",
        "fails": "失败",
    },
}


def house(language: str) -> str:
    """Draw processes, tables, folders and who talks to them."""
    words = HOUSE[language]
    drawing = Drawing(1260, 720, words["title"])
    drawing.box("zone", 20, 20, 210, 680, words["internet"])
    drawing.box("zone", 380, 20, 860, 680, words["machine"])
    drawing.box("theirs", 40, 170, 170, 110, *words["vendors"])
    drawing.box("ours", 410, 70, 310, 112, *words["receiver"])
    drawing.box("ours", 410, 300, 310, 130, *words["reconciler"])
    drawing.box("kept", 840, 70, 370, 326, *words["postgres"])
    for number, (what, tables) in enumerate(words["tables"]):
        drawing.words(854, 120 + 40 * number, what)
        drawing.words(854, 137 + 40 * number, tables, "small ink")
    drawing.box("kept", 840, 490, 370, 130, *words["data"])
    drawing.box("theirs", 410, 510, 204, 86, *words["apps"])
    drawing.box("theirs", 626, 510, 160, 64, *words["people"])
    drawing.box("theirs", 410, 614, 204, 64, *words["watch"])
    drawing.box("theirs", 626, 594, 180, 84, *words["shell"])
    drawing.arrow("M210 195 C 300 195 310 130 408 130")
    for number, line in enumerate(words["push"]):
        drawing.words(305, 105 + 17 * number, line, at="middle")
    drawing.arrow("M410 360 C 310 360 300 255 212 255")
    drawing.words(305, 388, words["ask"], at="middle")
    drawing.arrow("M720 120 H 838")
    drawing.words(780, 112, words["store"], at="middle")
    drawing.arrow("M720 160 C 736 164 736 220 736 330 C 736 470 780 522 838 522", dashed=True)
    drawing.words(746, 230, words["spool"][0])
    drawing.words(746, 247, words["spool"][1])
    drawing.arrow("M720 345 H 838", both=True)
    drawing.words(834, 337, words["work"], at="end")
    drawing.arrow("M720 410 C 806 416 806 550 838 550")
    drawing.words(800, 440, words["page"])
    drawing.arrow("M520 510 V 432")
    drawing.arrow("M690 510 V 432")
    drawing.arrow("M410 645 C 392 640 392 440 408 410")
    drawing.arrow("M806 660 H 1226 V 300 H 1212", dashed=True)
    return drawing.text()


def way(language: str) -> str:
    """Draw the way of one receipt, with what may come between."""
    words = WAY[language]
    drawing = Drawing(1000, 900, words["title"])
    tops = [20 + 98 * number for number in range(9)]
    for top, (kind, *lines) in zip(tops, words["steps"], strict=True):
        drawing.box(kind, 40, top, 380, 66, *lines)
    for top in tops[:-1]:
        drawing.arrow(f"M230 {top + 66} V {top + 96}")
    side = 560
    for name, top, height in (
        ("turned", 118, 62),
        ("spool", 196, 104),
        ("full", 346, 62),
        ("left", 428, 84),
        ("quarantine", 530, 62),
        ("aside", 610, 84),
        ("recovery", 716, 84),
        ("chain", 820, 62),
    ):
        kind, *lines = words[name]
        drawing.box(kind, side, top, 400, height, *lines)
    drawing.arrow("M420 150 H 558")
    drawing.arrow("M420 240 H 558")
    drawing.words(490, 232, words["fails"], at="middle")
    drawing.arrow("M558 270 C 500 280 480 325 422 332", dashed=True)
    drawing.arrow("M760 300 V 344")
    drawing.words(770, 340, words["fails"])
    drawing.arrow("M558 470 C 500 470 480 530 422 535", dashed=True)
    drawing.arrow("M420 550 H 558")
    drawing.arrow("M420 640 H 558")
    drawing.arrow("M558 680 C 500 690 480 720 422 730", dashed=True)
    drawing.arrow("M420 835 C 480 835 500 770 558 765")
    drawing.arrow("M960 758 H 980 V 320 H 560 C 500 320 490 348 422 350", dashed=True)
    drawing.words(956, 710, words["again"], at="end")
    drawing.arrow("M40 348 H 22 V 884 H 500 C 530 884 530 852 558 852", dashed=True)
    return drawing.text()


def drawings() -> dict[Path, str]:
    """Return every picture's place and text."""
    return {
        PICTURES / f"{name}.{language}.svg": draw(language)
        for name, draw in (("house", house), ("way", way))
        for language in ("en", "zh")
    }


if __name__ == "__main__":
    for path, text in drawings().items():
        path.write_text(text, "utf-8")
