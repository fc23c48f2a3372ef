-- Asks: Which messages do reports speak of that nobody registered?
-- 问: 哪些回执对应的短信没有发送登记？
-- Parameter account (account, optional): only this account; all of them without it | 只查这个账号；不给则查全部账号
-- Binds: account, now, limit
-- Column account (text) 账号: the account | 账号
-- Column message_id (id) 短信ID: the message, as GET /v1/messages/{id} shows it | 短信的编号，可用 GET /v1/messages/{id} 查看
-- Column vendor_message_id (text) 任务ID: the vendor's id | 厂商的任务 ID
-- Column phone (text) 手机号: the number | 手机号
-- Column status (text) 回执状态: the last status reported | 最后报告的状态
-- Column reports (integer) 回执数: reports on it | 关于它的回执数
-- Column first_received_at (time) 首次收到: when the first came | 首个回执收到的时间
-- Column age_days (decimal) 天数: days since then | 距今天数

SELECT
    $1::text AS account,
    r.message_id,
    min(r.vendor_message_id) AS vendor_message_id,
    min(r.phone) AS phone,
    (array_agg(r.status ORDER BY r.received_at DESC, r.fingerprint))[1] AS status,
    count(*) AS reports,
    min(r.received_at) AS first_received_at,
    round(extract(EPOCH FROM $2::timestamptz - min(r.received_at)) / 86400, 2) AS age_days
FROM reports AS r
WHERE r.orphan AND r.account = $1::text
GROUP BY r.message_id
ORDER BY first_received_at, r.message_id
LIMIT $3::bigint;
