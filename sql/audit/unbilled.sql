-- Asks: Which messages are owed for, and no statement bills them?
-- 问: 哪些短信应付，却没有任何账单收费？
-- Parameter account (account, optional): only this account; all of them without it | 只查这个账号；不给则查全部账号
-- Parameter period (period): days in the account's zone, such as 2026-10 or 2026-10-01..2026-10-15 | 账期，按账号时区的日期，如 2026-10 或 2026-10-01..2026-10-15
-- Binds: account, currency, tariff_starts, tariff_ends, tariff_prices, tariff_bases, starts, ends, limit
-- Column account (text) 账号: the account | 账号
-- Column message_id (id) 短信ID: the message, as GET /v1/messages/{id} shows it | 短信的编号，可用 GET /v1/messages/{id} 查看
-- Column vendor_message_id (text) 任务ID: the vendor's id | 厂商的任务 ID
-- Column phone (text) 手机号: the number | 手机号
-- Column sent_at (time) 发送时间: when it was sent | 发送时间
-- Column status (text) 状态: the message's state | 短信的状态
-- Column segments (integer) 条数: their segments, as we count | 按我方规则计算的条数
-- Column owed (decimal) 应付: what the tariffs ask; empty without a tariff | 按资费应付的金额；没有资费则为空
-- Column currency (text) 币种: the currency of the amounts | 金额的币种

-- Read twice and written nowhere: an account's lines are many.
WITH billed AS NOT MATERIALIZED (
    SELECT
        l.shard,
        l.message_id,
        l.vendor_message_id
    FROM audit.statements AS s
    INNER JOIN lines AS l ON s.id = l.statement_id
    WHERE s.account = $1::text AND s.newest
)

SELECT
    $1::text AS account,
    m.id AS message_id,
    m.vendor_message_id,
    m.phone,
    m.sent_at,
    m.status,
    m.segments,
    m.segments * t.price AS owed,
    $2::text AS currency
FROM audit.sent_unmasked AS m
INNER JOIN unnest($3::timestamptz[], $4::timestamptz[], $5::numeric[], $6::text[])
    AS t (starts, ends, price, basis)
    ON m.sent_at >= t.starts AND m.sent_at < t.ends
WHERE
    m.account = $1::text AND m.sent_at >= $7::timestamptz AND m.sent_at < $8::timestamptz
    AND audit.charged(t.basis, m.status)
    AND NOT EXISTS (SELECT 1 FROM billed AS b WHERE b.shard = m.shard AND b.message_id = m.id)
    AND NOT EXISTS (
        SELECT 1
        FROM billed AS b
        WHERE b.shard = m.shard AND b.message_id IS NULL AND b.vendor_message_id = m.vendor_message_id
    )
ORDER BY m.sent_at, m.id
LIMIT $9::bigint;
