"""ThinkAPI (顶想云): domestic codes and notices by reviewed sign and template.

Auth
    Calls carry `Authorization: AppCode <code>`, which the vendor recommends over the query
    parameter `appCode`: a header is in no access log. The vendor's SDK turns certificate checks
    off; we do not. Pushes are not signed in any documented way: the callback address is the secret.
Callback
    One POST, JSON in UTF-8, header `X-ThinkPHP-Event: sms`; `action` is `report`, `sign` or
    `template`. The page's samples are not JSON (single quotes, `//` comments, a missing comma,
    trailing commas), and of the replies some have a trailing comma: they are read all the same.
    A template's payload stands under `sign` in the page; `template` is taken too. Ids, statuses
    and phones come as text or as numbers; errors as null or "".
    A key given twice counts as its last value, as PHP reads it.
Acknowledge
    The page asks for nothing. Its sibling event `service` is repeated until HTTP 200, so: 200, and
    as a body the vendor's own words for success, `{"code":0}`.
Retries
    None: "数据推送只会推送一次". What was missed is asked for, by id: `sms/query_status`,
    `sms/query_sign`, `sms/query_template`; repeatable. Sending and submissions (`sms/add_sign`,
    `sms/add_template`, `sms/modify_sign`, `sms/modify_template`) are not: a second `add` is a
    second sign. Nor are `sms/delete_sign` and `sms/delete_template`: what is gone is refused, which
    would be told of a deletion whose reply was lost. There is no list of messages, signs and
    templates to find one in whose id was lost, and no reference of ours goes along with a message.
Clock
    `YYYY-MM-DD HH:MM:SS` without a zone, taken in the account's zone; null, "" and zeros are no
    time. The query reply spells `reveiveDate` where the push has `receiveDate`: both are read.
Identity
    `id` is one message to one number. Of one id the status may be pushed again as it changes
    (0 sending, then 1 or -1). A sign or template that was rejected is corrected under its id; one
    that was approved cannot be changed. The reply to a submission has its id and times and no
    status: it is pending, with no code of the vendor's. The reply to a deletion has nothing at all:
    what was deleted is what was asked for. Signs and templates are named by id when sending too.
Limits
    One number a call of `sms/send`. The public SDK has `sms/batch_send` too, with the same
    parameters; the page has not, and its reply is published nowhere: it is used where the option
    `batch_send` is more than 1, numbers joined by commas. Mainland numbers only, no time of
    sending, no text but templates; at most 8 variables of at most 50 characters, `params` left out
    where there are none: said before a text is sent, `sends.send_objections`. By default one text
    a minute, five an hour and ten a day to one number. Calls are limited by the account's
    `requests_per_second`; one id per query. What the page asks of names and variables of signs and
    templates is warned of before they are submitted: `reviews.review_warnings`.
Billing
    Template text and sign, every character one unit, 70/67; charged by what the console's send log
    counts as delivered. No message carries a count or a price. What 😀 counts as is not said:
    UTF-16 units are assumed.
Sources
    The vendor's page "短信API服务" (vendor page 001), and the public SDK top-think/think-api for
    the header, the envelope (`code`, `message`, `data`; 0 is success) and the camel-case names. No
    table of error codes is public: any other code is refused, in the vendor's words.
"""

from gateways.gateway import Gateway
from gateways.thinkapi.callbacks import acknowledge, parse_callback
from gateways.thinkapi.client import Credentials, Options, ThinkApiClient, parse_reply
from gateways.thinkapi.reviews import VARIABLE, review_warnings
from gateways.thinkapi.sends import fill, send_objections

GATEWAY = Gateway(
    name="thinkapi",
    vendor="顶想云 ThinkAPI",
    default_base_url="https://api.topthink.com",
    credentials=Credentials,
    parse_callback=parse_callback,
    parse_reply=parse_reply,
    acknowledge=acknowledge,
    client=ThinkApiClient,
    options=Options,
    check_review=review_warnings,
    check_send=send_objections,
    fill=fill,
    variable=VARIABLE,
    signs_by_id=True,
    id_per_number=True,
)
