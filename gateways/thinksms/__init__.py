"""thinksms (智想云创), one of the many hosts of the "sms.aspx" platform (迈远).

Auth
    `userid`, `account` and `password` in the clear, in every call: sent as a POST form, so that
    they are in no address. The documented host answers on plain HTTP; set `base_url` to https
    where the host offers it. A fork (华信) wants the password as its MD5 in capitals: `auth` "md5".
    `auth` "signed", the v2 paths: `userid`, `timestamp` (yyyyMMddHHmmss, taken in the account's
    zone, 24 hours: public clients that write 12 get away with it) and `sign`, the lower-case MD5 of
    account, password and timestamp; one host lets it be five minutes off. Whether p2p has a path of
    its own there is not said. A call that is repeated bears the timestamp of its first attempt, at
    most some tens of seconds old. Pushes are not signed in any documented way: the callback
    address is the secret.
Callback
    Push is offered but its format is published nowhere. Read are GET and POST; form, JSON and XML,
    and either of those in a form field or percent-encoded; one record or many; the names of the
    pull in any case (`mobile, taskid, status, receivetime, errorcode, content, extno`). A record
    with `status` is a report, one with `content` and no status is a message from a handset.
Acknowledge
    Unpublished. `ok` as plain text: the word that the platform's own replies have for success.
Retries
    Unknown for pushes. A pull hands out each row once ("相同的状态报告只能获取一次"): a reply that
    is cut is read as far as its rows are whole, and never asked for again.
Clock
    Local times without a zone, taken in the account's zone: `2017-05-13 13:09:46`, and
    `2017/5/13 13:09:46` from some hosts.
    `sendTime` is written in the same zone, `2010-10-24 09:08:10` (a reseller's page).
Identity
    `taskid` is one request, whatever its many numbers: a report is of (taskid, mobile). 0 or empty
    is no id: a "Success" without one is garbled. The same number twice in one request cannot be told
    apart. `successCounts` is how many numbers were taken; which is not said. A failure that names a
    task or numbers taken leaves open what happened. Inbound messages may bring an unrelated id or
    none.
Limits
    A pull takes up to `statusNum` reports (`status_num`), 4000 at most. The inbound pull has no such
    parameter. Which of the two comes is decided by the path alone: `report_path`, `inbound_path`.
    For a send none is said: 50,000 numbers were seen. Taken: 1,000 (`numbers_per_send`), as what is
    not known of one request is not known of all its numbers, and 200 texts (`texts_per_send`), which
    is below IIS's 4 MB for the longest. The sign in 【】 must begin each text; some hosts add it. A text
    that `charset` lacks a character for is not sent. Personal texts are `number TAB text`; what parts one from the
    next is not said: a line break (`p2p_separator`), so a text may hold neither. The page prints
    their address at cloud.thinksms.com, all others at .cn: taken for a slip (`p2p_path`, which may
    be a whole address). No GBK twin of it is known: UTF-8 (`p2p_charset`).
Billing
    "70字按一条计费 ... 长短信67字按一条计费", sign included as it stands in the text. No reply
    carries a count or a price. What 😀 counts as is not said: UTF-16 units are assumed.
    `RemainPoint` and `Overage` are balances, negative when paid afterwards; `SendTotal` is what was
    bought at some hosts and what was sent at others: not read.
Sources
    The vendor's page "短信API接口服务" (vendor page 000) for parameters, status numbers, JSON names
    and billing; public clients and re-implementations of the platform for paths, the XML of the
    pulls and their errors (vendor fact sheet, section 1). Known drifts that are read: names in any
    case, `statusbox` or `callbox`, JSON as a list or one object, an empty body or a childless root
    for "nothing", GBK declared or not, status words instead of numbers, status 20 with errorcode
    ACCEPTD* for a message still under way, the JSON fork in which `error` 1 is success and reports
    have no status, success spelled Sucess or with 成功 behind it, numbers as text, and a
    marketplace's envelope with the whole reply as text in `result`. Failures are words only; those
    that name a reason get a code of ours (codes.py). A keyword check answers with `message` alone.
    The reply to `changespwd` is published nowhere: the other calls' is expected; the new password
    goes in the clear, as the page has it, whatever `auth` is. The v2 paths, with a GBK twin of the
    first, are from resellers' pages and public clients.
"""

from gateways.gateway import Gateway
from gateways.thinksms.callbacks import acknowledge, parse_callback
from gateways.thinksms.client import Credentials, Options, ThinkSmsClient, check_send
from gateways.thinksms.codes import EXPLANATIONS
from gateways.thinksms.replies import parse_reply

GATEWAY = Gateway(
    name="thinksms",
    vendor="智想云创 thinksms",
    default_base_url="http://cloud.thinksms.cn",
    credentials=Credentials,
    options=Options,
    parse_callback=parse_callback,
    parse_reply=parse_reply,
    acknowledge=acknowledge,
    client=ThinkSmsClient,
    check_send=check_send,
    explain=EXPLANATIONS.get,
    methods=frozenset({"GET", "POST"}),
)
