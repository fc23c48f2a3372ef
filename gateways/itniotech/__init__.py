"""itniotech (also laaffic, onbuka): international texts, priced per message in its own reports.

Auth
    Headers `Api-Key`, `Timestamp` (seconds) and `Sign`, the MD5 of key, secret and timestamp. How
    old a timestamp may be is not said (status -16), so every attempt of a call signs anew. `appId`
    says for which application. Pushes are not signed in any documented way: the callback address
    is the secret.
Callback
    POST, one JSON object, UTF-8. Reports and inbound messages are told apart by their fields:
    `status`, or `content` without it. The page's samples are not JSON (single quotes), one sample's
    key ends with a blank (`"orderId "`), another spells `mcn` for `mnc`: they are read all the
    same, names without surrounding blanks. Numbers come as text or as numbers. What decides
    (`msgid`, `mobile`, `status`) must be readable; an unreadable charge or time is left out, the
    record is quarantined for somebody to look at, and the report counts.
Acknowledge
    Not documented. 200 and `{"status":"0"}`, the vendor's own word for success.
Retries
    Not documented for pushes. Reports can be asked for by id (`getReport`, 90 to 120 days) and
    listed by time (`getSentRcd`, 90 days), inbound messages listed (`recordMo`); all repeatable.
    `sendSms` is not: `orderId` is handed back, and nowhere said to be unique. Of a send, -12
    (platform) and -18 (port program) leave open what was done; any other status but 0 is a no.
Clock
    `receiveTime` is ISO 8601 with an offset, `reply_time` local, in the account's zone. What the
    `timestamp` of a push means depends on the host: when the message was sent (itniotech.com,
    itniotech.cn, laaffic), or when the report came (newer onbuka). By default it is taken for the
    former (`push_timestamp`), and then it is no time of the report: all reports of one message
    would have the same, it would go before every time of a query, and each message would seem to
    have arrived at once. Without it a pushed report stands last, by the rule of the fold. The bytes
    keep it.
Identity
    `msgId` (in pushes `msgid`) is one message to one number. A status number means what its channel
    says: of failures getReport has 1, getSentRcd 2, a push any number but 0. Anything else is
    unknown and never final. `nofound` of getReport counts messages still in the queue: no answer,
    no failure. `orderId` is our reference; another's, which does not look like one, is left out.
Limits
    1000 numbers by POST, 100 by GET, 200 ids in getReport, texts of 1024 characters. getSentRcd:
    31 days, 50,000 rows a page; recordMo: a month, 100 rows a page. A GET of 100 numbers with a
    long text makes an address of more than ten thousand characters. No templates, no sending at a
    later time. A sign, for which there is no field, goes in front of the text in 【】. A reply to
    `sendSms` lists the numbers that were taken and only counts the others.
Billing
    `pricedetail` of a pushed report is what the message cost: `chargeCnt` segments at `price` make
    `pay` of `currency`. All three are kept as they came, also where they disagree. getReport and
    getSentRcd have no such thing. How segments are counted is not said: the international rule is
    assumed. Whether failed messages are charged is not said.
Sources
    The vendor's page "发送短信" (vendor page 003) for `sendSms`; its pages account, getReport,
    getSentRcd, getBalance, recordMo, pushSmsReport, pushMoSmsReport and statusCode for the rest
    (vendor fact sheet, section 4), with the test vector of the signature. The Chinese page of
    getSentRcd has getReport's status numbers; the English one, with 2, is followed: a 1 there stays
    unknown, and getReport or a push tells. The twins' hosts have `/v3` for `/sms` (`api_path`).
"""

from gateways.gateway import Gateway
from gateways.itniotech.callbacks import acknowledge, parse_callback
from gateways.itniotech.client import (
    Credentials,
    ItniotechClient,
    Options,
    check_send,
    counting_rule,
    parse_reply,
)
from gateways.itniotech.codes import REFUSALS

GATEWAY = Gateway(
    name="itniotech",
    vendor="itniotech",
    default_base_url="https://api.itniotech.com",
    credentials=Credentials,
    options=Options,
    parse_callback=parse_callback,
    parse_reply=parse_reply,
    acknowledge=acknowledge,
    client=ItniotechClient,
    rule=counting_rule,
    check_send=check_send,
    explain=REFUSALS.get,
    id_per_number=True,
)
