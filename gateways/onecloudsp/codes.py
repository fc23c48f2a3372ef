"""1cloudsp's codes, as public clients list them."""

import re

from gateways.events import Status

REPORT_STATUS: dict[str, Status] = {
    "DELIVRD": Status.DELIVERED,
    "REJECT": Status.FAILED,
    "BLACK": Status.FAILED,
    # The carriers' own words come through; SMPP 3.4, 5.2.28.
    "UNDELIV": Status.FAILED,
    "EXPIRED": Status.FAILED,
    "REJECTD": Status.FAILED,
    "DELETED": Status.FAILED,
    "ENROUTE": Status.PENDING,
    "ACCEPTD": Status.PENDING,
}

# What a carrier's gateway gives a failure: CA:0051, MK:0011, DB:0103. All zeros is no failure.
CARRIER_FAILURE = re.compile(r"[A-Z]{2}:(?!0000)\d{4}", re.ASCII)

SUCCESS = "0"

# What public clients say of them, and the words of a refusal that brings none. 9004, 9005, 9008 and 9020
# are known to nobody.
REFUSALS: dict[str, str] = {
    "9001": "the sign's format is wrong",
    "9002": "a parameter is missing",
    "9003": "a number's format is wrong",
    "9006": "the access key is wrong",
    "9007": "this address (IP) is not allowed",
    "9009": "the content parameter is wrong",
    "9010": "the balance is too low",
    "9011": "the account is not in order",
    "9012": "a date's format is wrong",
    "9013": "the voice code is wrong",
    "9014": "too many numbers",
    "9015": "the country is not supported",
    "9016": "the sign, or its id, is not valid",
    "9017": "the template's id is not valid",
    "9018": "a variable has not 1 to 20 characters",
    "9019": "the content is empty",
    "9021": "caller and callee are the same",
    "9022": "the number is missing",
    "9023": "the number is on a blacklist",
    "9024": "too much was sent to this number",
    "10001": "the content has sensitive words",
    "10002": "the content has blocked words",
    "10003": "the time to send at is wrong",
    "10004": "the extension has more than 4 digits",
    "10005": "the template's type is missing",
    "10006": "the content does not match the template",
}
