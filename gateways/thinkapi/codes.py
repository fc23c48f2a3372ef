"""ThinkAPI's codes, with the page's words behind each."""

from gateways.events import ReviewStatus, Status

REPORT_STATUS: dict[str, Status] = {
    "1": Status.DELIVERED,  # 成功
    "-1": Status.FAILED,  # 失败
    "0": Status.PENDING,  # 发送中
}

REVIEW_STATUS: dict[str, ReviewStatus] = {
    "0": ReviewStatus.PENDING,  # 审核中
    "1": ReviewStatus.APPROVED,  # 通过
    "2": ReviewStatus.REJECTED,  # 驳回
}

# The replies to a submission and to a deletion have no status. That a review has begun, or that the
# thing is gone, is what the call means; for the vendor's code we keep none, rather than write a 0
# that the vendor never said.
NO_STATUS = ""
