"""Who plays in the demo: the accounts, what they send, and the two settings files."""

from typing import NamedTuple

THINK, SMS, CLOUD, ABROAD, ITNIO, FINCH = (
    "think-main",
    "sms-main",
    "cloud-main",
    "cloud-intl",
    "itnio-main",
    "finch-main",
)
SIGN, SIGN_ID, TEMPLATE_ID = "顶想云", "78", "234"


class Part(NamedTuple):
    """An account: its vendor, its share of the month's messages, and what it is owed in.

    `own_requests` are sent through Huizhi, `own_numbers` in each; the replies to `own_cuts` of them
    are cut.
    """

    account: str
    vendor: str
    share: int
    own_requests: int
    own_numbers: int
    own_cuts: int = 2
    reports: bool = True


# The bulk goes to the first two; shares are of `SHARES`.
CAST = (
    Part(THINK, "thinkapi", 300, 12, 1),
    Part(SMS, "thinksms", 250, 6, 5),
    Part(CLOUD, "onecloudsp", 50, 8, 3),
    Part(ABROAD, "onecloudsp", 20, 6, 2),
    Part(ITNIO, "itniotech", 50, 8, 4),
    Part(FINCH, "deepfinch", 30, 6, 2, reports=False),
)
SHARES = sum(part.share for part in CAST)

LONG_TEMPLATE = (
    "尊敬的${name},您预约的上门服务已由工程师接单,预计今天下午到达,请保持电话畅通;如需改期"
    "请提前两小时在订单页面修改,逾期将按已上门处理。感谢您的支持,我们会继续努力为您服务。"
)

SETTINGS = """\
data_dir = "data"

[receiver]
host = "127.0.0.1"
port = {receiver}
workers = 2

[reconciler]
host = "127.0.0.1"
port = {reconciler}
api_token = "{api_token}"

[accounts.think-main]
gateway = "thinkapi"
base_url = "{sandbox}/thinkapi"
credentials = {{ app_code = "{app_code}" }}
callback_tokens = ["{think_token}"]
poll_after_seconds = 1
requests_per_second = 500
[[accounts.think-main.tariffs]]
from = 2020-01-01
price = "0.035"
currency = "CNY"
basis = "delivered"

[accounts.sms-main]
gateway = "thinksms"
base_url = "{sandbox}/thinksms"
credentials = {{ user_id = "1001", account = "demo", password = "{password}" }}
callback_tokens = ["{sms_token}"]
poll_after_seconds = 1
requests_per_second = 500
status_num = 100
[[accounts.sms-main.tariffs]]
from = 2020-01-01
price = "0.045"
currency = "CNY"
basis = "submitted"

[accounts.cloud-main]
gateway = "onecloudsp"
base_url = "{sandbox}/onecloudsp"
credentials = {{ access_key = "demo", secret = "{cloud_secret}" }}
callback_tokens = ["{cloud_token}"]
poll_after_seconds = 1
requests_per_second = 500
[[accounts.cloud-main.tariffs]]
from = 2020-01-01
price = "0.05"
currency = "CNY"
basis = "submitted"

[accounts.cloud-intl]
gateway = "onecloudsp"
market = "international"
base_url = "{sandbox}/onecloudsp"
international_url = "{sandbox}/onecloudsp"
credentials = {{ access_key = "demo-intl", secret = "{abroad_secret}" }}
callback_tokens = ["{abroad_token}"]
poll_after_seconds = 1
requests_per_second = 500
[[accounts.cloud-intl.tariffs]]
from = 2020-01-01
price = "0.3"
currency = "CNY"
basis = "submitted"

[accounts.itnio-main]
gateway = "itniotech"
base_url = "{sandbox}/itniotech"
credentials = {{ api_key = "demo", api_secret = "{itnio_secret}", app_id = "app" }}
callback_tokens = ["{itnio_token}"]
push_timestamp = "reported"
poll_after_seconds = 1
requests_per_second = 500
[[accounts.itnio-main.tariffs]]
from = 2020-01-01
price = "0.012"
currency = "USD"
basis = "submitted"

[accounts.finch-main]
gateway = "deepfinch"
base_url = "{sandbox}/deepfinch"
credentials = {{ secret_id = "demo", secret_key = "{finch_secret}" }}
poll_after_seconds = 1
requests_per_second = 500
[[accounts.finch-main.tariffs]]
from = 2020-01-01
price = "0.04"
currency = "CNY"
basis = "submitted"
"""

SANDBOX = """\
port = {sandbox_port}
seed = {seed}
truth_path = "{folder}/truth.jsonl"
hold_pushes = true
strict = true

[outcomes]
failed = 0.06
never_final = 0.01

[faults]
{faults}

[thinkapi.accounts.think-main]
app_code = "{app_code}"
callback_url = "{receiver_url}/callbacks/think-main/{think_token}"
signs = [{{ id = 78, name = "顶想云", remark = "用于短信通知和验证码" }}]
templates = [
  {{ id = 234, name = "验证码", content = "您的验证码是${{code}},五分钟内有效。" }},
  {{ id = 235, name = "订单通知", content = "你有一个新的${{name}}订单,请及时处理!" }},
  {{ id = 236, name = "服务通知", content = "{long_template}" }},
]

[thinksms.accounts.sms-main]
user_id = "1001"
account = "demo"
password = "{password}"
callback_url = "{receiver_url}/callbacks/sms-main/{sms_token}"
inbound_rate = 0.02
count_by = "utf16"

[onecloudsp.accounts.cloud-main]
access_key = "demo"
secret = "{cloud_secret}"
callback_url = "{receiver_url}/callbacks/cloud-main/{cloud_token}"
inbound_rate = 0.02
pull_rows = 40
signs = [{{ id = 123, name = "顶想云" }}]
templates = [
  {{ id = 100, content = "{{1}}您好,您的订单已通过{{2}}发货,运单号{{3}}" }},
  {{ id = 101, content = "您的验证码是{{1}},五分钟内有效。" }},
]

[onecloudsp.accounts.cloud-intl]
access_key = "demo-intl"
secret = "{abroad_secret}"
callback_url = "{receiver_url}/callbacks/cloud-intl/{abroad_token}"
price = "0.3"
pull_rows = 40

[itniotech.accounts.itnio-main]
api_key = "demo"
api_secret = "{itnio_secret}"
app_id = "app"
callback_url = "{receiver_url}/callbacks/itnio-main/{itnio_token}"
price = "0.012"
push_timestamp = "reported"
published_style = 0.1
inbound_rate = 0.02
[itniotech.accounts.itnio-main.faults]
{faults_of_listed}

[deepfinch.accounts.finch-main]
secret_id = "demo"
secret_key = "{finch_secret}"
"""

FAULTS = {
    "push_lost": 0.03,
    "push_doubled": 0.03,
    "push_reordered": 0.03,
    "push_early": 0.03,
    "push_contradicting": 0.01,
    "push_forged": 0.01,
    "push_malformed": 0.02,
    "reply_slow": 0.02,
    "reply_429": 0.03,
    "reply_500": 0.03,
    "reply_cut": 0.03,
    "page_cut": 0.12,
    "billed_not_sent": 0.004,
    "billed_not_delivered": 0.1,
    "billed_twice": 0.004,
    "billed_out_of_period": 0.1,
    "segments_differ": 0.004,
    "price_differs": 0.004,
    "segments_and_price_differ": 0.002,
    "not_billed": 0.004,
    "statement_at_least": 2,
}
# The list by time (getSentRcd) is there to find what no push brought: at that vendor more are lost.
FAULTS_OF_LISTED = {**FAULTS, "push_lost": 0.15}
