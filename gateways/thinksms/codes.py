"""The codes of the "sms.aspx" platform, with its documents' words behind each."""

from gateways.events import Status

REPORT_STATUS: dict[str, Status] = {
    "10": Status.DELIVERED,  # 成功
    "20": Status.FAILED,  # 失败
    # Some hosts put the carrier's words there; SMPP 3.4, 5.2.28.
    "DELIVRD": Status.DELIVERED,
    "UNDELIV": Status.FAILED,
    "EXPIRED": Status.FAILED,
    "REJECTD": Status.FAILED,
    "DELETED": Status.FAILED,
    "ENROUTE": Status.PENDING,
    "ACCEPTD": Status.PENDING,
}

FAILED = "20"

# A public client takes 20 with such an errorcode for a message still under way.
STILL_PENDING = "ACCEPTD"

# `returnstatus` of a call that went well; a balance query spells it with one c.
SUCCESS = frozenset({"success", "sucess"})

# `error` of the JSON fork for success. In XML the same number says: account or password empty.
FORK_SUCCESS = "1"
