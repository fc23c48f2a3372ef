"""deepfinch (深智科技): domestic codes by template, sold on Tencent's cloud market (云市场).

Auth
    Every request is signed for the API gateway of the market, which stands before the vendor:
    HMAC-SHA1 with `secret_key` over `x-date: …` and `x-source: …`, one a line; `x-date` is the time
    in GMT with English names, at most 900 s off. `source` may be anything. The body is not signed.
    Some of the page's samples turn certificate checks off; we do not. Its curl sample signs `date`
    and `source`, quotes no signature and sends JSON: the six programs on the page agree against it.
Callback
    None. A body that comes all the same is recorded and quarantined.
Acknowledge
    Text `ok`, 200: nobody is known to ask for it.
Retries
    None, and nothing to ask: no report, no query, no list, no statement is documented. That the
    vendor took a text is the last that can be known of it. A send is never repeated once it left.
Clock
    Replies have no times.
Identity
    `request_id` of the reply: one text to one number. No reference of ours goes along.
Limits
    One number a call. Text is `template_id` and `content`, the template's variables as name:value
    joined by commas, so that neither can hold a colon or a comma; the sign stands in the template.
    Requests are limited by the vendor (RATE_LIMIT_EXCEEDED) and by the gateway (HTTP 429).
    The gateway's product is at its end: sales stopped on 2024-07-01, and its hosts are shut down in
    stages from 2026-10-30. `base_url` and `send_path` are there for the day that the vendor moves.
Billing
    Not documented: neither what a text costs nor how its length counts. The domestic rule is
    assumed, 70/67 UTF-16 units with the sign, and no reply carries a count or a price.
Sources
    The vendor's page on the market (vendor page 004); for the gateway Tencent's pages on key pairs
    and error codes (product 628). The page's codes are numbers and words; replies have shown the
    words only, so the body is read before the HTTP status. The gateway's errors are text, bare or
    as `message` in JSON; they are refusals with the code `gateway`, never taken for the vendor's.
    `INTERNAL_ERROR`, and what the gateway says when it lost the vendor, leave open whether the text
    was sent.
"""

from gateways.deepfinch.callbacks import acknowledge, parse_callback
from gateways.deepfinch.client import (
    Credentials,
    DeepFinchClient,
    Options,
    parse_reply,
    send_objections,
)
from gateways.deepfinch.codes import EXPLANATIONS
from gateways.gateway import Gateway

GATEWAY = Gateway(
    name="deepfinch",
    vendor="深智科技 deepfinch",
    default_base_url="https://service-6pdvpyfd-1300075552.bj.apigw.tencentcs.com",
    credentials=Credentials,
    parse_callback=parse_callback,
    parse_reply=parse_reply,
    acknowledge=acknowledge,
    client=DeepFinchClient,
    options=Options,
    check_send=send_objections,
    explain=EXPLANATIONS.get,
    reports=False,
    id_per_number=True,
)
