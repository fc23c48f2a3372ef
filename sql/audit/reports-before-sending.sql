-- Asks: Which messages were reported before they were sent?
-- 问: 哪些短信的回执时间早于发送时间？
-- Parameter account (account, optional): only this account; all of them without it | 只查这个账号；不给则查全部账号
-- Parameter period (period): days in the account's zone, such as 2026-10 or 2026-10-01..2026-10-15 | 账期，按账号时区的日期，如 2026-10 或 2026-10-01..2026-10-15
-- Parameter seconds (integer, default 5, 0 to 86400): by more than so many seconds, which two clocks may differ by | 提前超过这么多秒（两边时钟可能有偏差）
-- Binds: account, starts, ends, seconds, limit
-- Column account (text) 账号: the account | 账号
-- Column message_id (id) 短信ID: the message, as GET /v1/messages/{id} shows it | 短信的编号，可用 GET /v1/messages/{id} 查看
-- Column vendor_message_id (text) 任务ID: the vendor's id | 厂商的任务 ID
-- Column phone (text) 手机号: the number | 手机号
-- Column sent_at (time) 发送时间: when it was sent | 发送时间
-- Column reported_at (time) 回执时间: the vendor's time of the report | 厂商的回执时间
-- Column seconds_before (decimal) 提前秒数: how long before sending | 早于发送的秒数
-- Column status (text) 状态: the message's state | 短信的状态
-- Note: a sign that reports may be made up, and no proof: ask the vendor for the carrier's own receipts | 只是回执可能造假的迹象，不是证据：请向厂商索要运营商的原始回执

SELECT
    $1::text AS account,
    m.id AS message_id,
    m.vendor_message_id,
    m.phone,
    m.sent_at,
    m.reported_at,
    extract(EPOCH FROM m.sent_at - m.reported_at) AS seconds_before,
    m.status
FROM audit.sent_unmasked AS m
WHERE
    m.account = $1::text AND m.sent_at >= $2::timestamptz AND m.sent_at < $3::timestamptz
    AND m.status IN ('delivered', 'failed')
    AND m.reported_at < m.sent_at - make_interval(secs => $4::integer)
ORDER BY m.sent_at, m.id
LIMIT $5::bigint;
