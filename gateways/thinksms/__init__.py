"""thinksms (智想云创), one of the many hosts of the "sms.aspx" platform (迈远).

Auth
    `userid`, `account` and `password` in the clear, in every call: sent as a POST form, so that
    they are in no address. The documented host answers on plain HTTP; set `base_url` to https
    where the host offers it. Pushes are not signed in any documented way: the callback address is
    the secret.
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
Identity
    `taskid` is one request, whatever its many numbers: a report is of (taskid, mobile). 0 or empty
    is no id. The same number twice in one request cannot be told apart. Inbound messages may bring
    an unrelated id or none.
Limits
    A pull takes up to `statusNum` reports (`status_num`), 4000 at most. The inbound pull has no such
    parameter. Which of the two comes is decided by the path alone: `report_path`, `inbound_path`.
Billing
    "70字按一条计费 ... 长短信67字按一条计费", sign included as it stands in the text. No reply
    carries a count or a price. What 😀 counts as is not said: UTF-16 units are assumed.
Sources
    The vendor's page "短信API接口服务" (vendor page 000) for parameters, status numbers, JSON names
    and billing; public clients and re-implementations of the platform for paths, the XML of the
    pulls and their errors (vendor fact sheet, section 1). Known drifts that are read: names in any
    case, `statusbox` or `callbox`, JSON as a list or one object, an empty body or a childless root
    for "nothing", GBK declared or not, status words instead of numbers, status 20 with errorcode
    ACCEPTD* for a message still under way, and the JSON fork in which `error` 1 is success and
    reports have no status.
"""

from gateways.gateway import Gateway
from gateways.thinksms.callbacks import acknowledge, parse_callback, parse_reply
from gateways.thinksms.client import Credentials, Options, ThinkSmsClient

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
    methods=frozenset({"GET", "POST"}),
)
