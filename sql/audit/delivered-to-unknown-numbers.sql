-- Asks: Which messages were reported delivered to mainland numbers of no known number segment?
-- 问: 哪些短信被报送达，而手机号不属于任何已知号段？
-- Parameter account (account, optional): only this account; all of them without it | 只查这个账号；不给则查全部账号
-- Parameter period (period): days in the account's zone, such as 2026-10 or 2026-10-01..2026-10-15 | 账期，按账号时区的日期，如 2026-10 或 2026-10-01..2026-10-15
-- Binds: account, currency, tariff_starts, tariff_ends, tariff_prices, tariff_bases, starts, ends, limit
-- Column account (text) 账号: the account | 账号
-- Column message_id (id) 短信ID: the message, as GET /v1/messages/{id} shows it | 短信的编号，可用 GET /v1/messages/{id} 查看
-- Column vendor_message_id (text) 任务ID: the vendor's id | 厂商的任务 ID
-- Column phone (text) 手机号: the number | 手机号
-- Column sent_at (time) 发送时间: when it was sent | 发送时间
-- Column segments (integer) 条数: their segments, as we count | 按我方规则计算的条数
-- Column owed (decimal) 应付: what the tariffs ask; empty without a tariff | 按资费应付的金额；没有资费则为空
-- Column currency (text) 币种: the currency of the amounts | 金额的币种
-- Note: new segments are issued: see that audit.prefixes is up to date before asking the vendor | 号段会增发：追问厂商前先确认 audit.prefixes 是最新的

SELECT
    $1::text AS account,
    m.id AS message_id,
    m.vendor_message_id,
    m.phone,
    m.sent_at,
    m.segments,
    m.segments * t.price AS owed,
    $2::text AS currency
FROM audit.sent_unmasked AS m
LEFT JOIN unnest($3::timestamptz[], $4::timestamptz[], $5::numeric[], $6::text[])
    AS t (starts, ends, price, basis)
    ON m.sent_at >= t.starts AND m.sent_at < t.ends
WHERE
    m.account = $1::text AND m.sent_at >= $7::timestamptz AND m.sent_at < $8::timestamptz
    AND m.status = 'delivered'
    AND length(m.phone) = 11
    AND m.phone LIKE '1%'
    AND NOT EXISTS (
        SELECT 1
        FROM audit.prefixes AS p
        WHERE p.prefix = left(m.phone, 3) OR p.prefix = left(m.phone, 4)
    )
ORDER BY m.sent_at, m.id
LIMIT $9::bigint;
