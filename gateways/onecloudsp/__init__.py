"""1cloudsp (天瑞云, 创瑞云, Chonry): domestic and international sending, the same wire at Tinree.

Auth
    `accesskey` and `secret` in the clear, in every call: sent as a POST form, so that they are in
    no address. The documented hosts answer on plain HTTP; set `base_url` and `international_url` to
    https where the hosts offer it. Pushes are not signed: the callback address is the secret.
Callback
    POST, form in UTF-8, one report a call: `smUuid, batchId, mobile, deliverResult, deliverTime`.
    JSON is read too, one record or a list, bare or under `data`. Names are read in any case. What
    has `content` and no `deliverResult` is a message from a handset; no push of those is documented.
Acknowledge
    Unpublished; a public receiver answers `{"code":"0","msg":"SUCCESS"}`, and so do we.
Retries
    Unknown for pushes. A pull hands out each row once, and has to be switched on in the console: a
    reply that is cut is read as far as its rows are whole, and never asked for again.
Clock
    Local times without a zone, `2018-01-01 18:00:00`, read and written in the account's zone.
Identity
    A batch answers one `batchId` for all its numbers, a single send its `smUuid`; reports carry
    smUuid and, not always, batchId. A report is taken by its batchId and number, else by its smUuid;
    whichever it goes by, the other ids that it may have been registered under are `also`. The last
    of these is the sixth part of a smUuid of seven (nnnnn_n_n_MOBILE_n_TOKEN_n), which looks like
    the batchId: believed only where the fourth part is the report's number.
    Which of them the bill has is not said; the one that the send answered is taken, also for a send
    whose reply was lost.
Limits
    50,000 numbers with one text, 10,000 with a text each (`data`): so says the page of the
    international send, taken for the domestic one too. Variables are joined by ##; a variable that
    could be read as two is refused before anything is sent. A pull takes no limit: it is repeated
    until it brings nothing. Whether a domestic variable may be longer than 20 characters (9018) is
    left to the vendor to say.
Billing
    Domestic: characters with the sign, 70, then 67 each (public clients; no page says it). What the
    international send counts is not found: GSM-7 and UCS-2 are assumed. No reply and no report has
    a count or a price. The balance has Chinese names and is in no named unit.
Sources
    The vendor's page "国际短信发送接口" (vendor page 002) for the international send; public clients
    for the domestic paths, both pulls, the reports and the codes; Chonry's console pages for the
    balance and the registration of the push (vendor fact sheet, section 3). Its samples encode
    `content` and `data` twice; we do not. Guessed, and read in any of the likely spellings: the
    fields of the inbound pull (`mobile`, `content`; `moTime`, `receiveTime` or `deliverTime`;
    `extend`, `extno` or `sign`; `batchId` or `smUuid`). Not found at all: pull, push and inbound
    messages of the international side; they are asked for and read as the domestic ones. A sign is
    written with its 【】, its id as it is, as public clients have it.
"""

from gateways.gateway import Gateway
from gateways.onecloudsp.callbacks import acknowledge, parse_callback
from gateways.onecloudsp.client import (
    DOMESTIC_URL,
    Credentials,
    OneCloudSpClient,
    Options,
    rule,
)
from gateways.onecloudsp.codes import REFUSALS
from gateways.onecloudsp.replies import parse_reply
from gateways.onecloudsp.sending import HOLE, check_send, fill, sent_under

GATEWAY = Gateway(
    name="onecloudsp",
    vendor="天瑞云 1cloudsp",
    default_base_url=DOMESTIC_URL,
    credentials=Credentials,
    options=Options,
    parse_callback=parse_callback,
    parse_reply=parse_reply,
    acknowledge=acknowledge,
    client=OneCloudSpClient,
    rule=rule,
    check_send=check_send,
    fill=fill,
    variable=HOLE,
    explain=REFUSALS.get,
    sent_under=sent_under,
)
