-- Asks: Which messages were reported both delivered and failed, and by which reports?
-- 问: 哪些短信既被报送达又被报失败，依据哪些回执？
-- Parameter account (account, optional): only this account; all of them without it | 只查这个账号；不给则查全部账号
-- Parameter period (period): days in the account's zone, such as 2026-10 or 2026-10-01..2026-10-15 | 账期，按账号时区的日期，如 2026-10 或 2026-10-01..2026-10-15
-- Binds: account, starts, ends, limit
-- Column account (text) 账号: the account | 账号
-- Column message_id (id) 短信ID: the message, as GET /v1/messages/{id} shows it | 短信的编号，可用 GET /v1/messages/{id} 查看
-- Column vendor_message_id (text) 任务ID: the vendor's id | 厂商的任务 ID
-- Column phone (text) 手机号: the number | 手机号
-- Column sent_at (time) 发送时间: when it was sent | 发送时间
-- Column status (text) 状态: the message's state: the earliest final report by the vendor's time | 短信的状态：以厂商时间最早的终态报告为准
-- Column report_status (text) 回执状态: what this report says | 该回执的状态
-- Column vendor_code (text) 厂商代码: its code | 该回执的状态码
-- Column reported_at (time) 回执时间: the vendor's time; empty if it gave none | 厂商的时间；没有则为空
-- Column received_at (time) 收到时间: when it came to us | 我方收到的时间
-- Column source (text) 来源: push, query or pull | 推送、补查或拉取
-- Column record (text) 记录: the digest of the raw bytes, for GET /v1/callbacks/{id}/body | 原始字节的摘要，可用 GET /v1/callbacks/{id}/body 查看

SELECT
    $1::text AS account,
    m.id AS message_id,
    m.vendor_message_id,
    m.phone,
    m.sent_at,
    m.status,
    r.status AS report_status,
    r.vendor_code,
    r.reported_at,
    r.received_at,
    r.source,
    encode(r.digest, 'hex') AS record
FROM audit.sent_unmasked AS m
INNER JOIN reports AS r ON m.shard = r.shard AND m.id = r.message_id AND r.status IN ('delivered', 'failed')
WHERE
    m.account = $1::text AND m.sent_at >= $2::timestamptz AND m.sent_at < $3::timestamptz
    AND m.contradicted
ORDER BY m.sent_at, m.id, r.reported_at NULLS LAST, r.received_at, r.fingerprint
LIMIT $4::bigint;
