-- Asks: Which texts went to the same number again within a few minutes?
-- 问: 哪些内容在几分钟内重复发给了同一号码？
-- Parameter account (account, optional): only this account; all of them without it | 只查这个账号；不给则查全部账号
-- Parameter period (period): days in the account's zone, such as 2026-10 or 2026-10-01..2026-10-15 | 账期，按账号时区的日期，如 2026-10 或 2026-10-01..2026-10-15
-- Parameter minutes (integer, default 10, 1 to 1440): within so many minutes | 间隔不超过的分钟数
-- Binds: account, currency, starts, minutes, ends, tariff_starts, tariff_ends, tariff_prices, tariff_bases, limit
-- Column account (text) 账号: the account | 账号
-- Column message_id (id) 短信ID: the message, as GET /v1/messages/{id} shows it | 短信的编号，可用 GET /v1/messages/{id} 查看
-- Column phone (text) 手机号: the number | 手机号
-- Column sent_at (time) 发送时间: when it was sent | 发送时间
-- Column earlier_id (id) 前一条ID: the message before it with the same sign and text | 签名和内容相同的前一条短信
-- Column seconds_after (decimal) 间隔秒数: how long after that one | 距前一条的秒数
-- Column segments (integer) 条数: their segments, as we count | 按我方规则计算的条数
-- Column owed (decimal) 应付: what the tariffs ask; empty without a tariff | 按资费应付的金额；没有资费则为空
-- Column currency (text) 币种: the currency of the amounts | 金额的币种
-- Note: messages registered without their text are not looked at | 登记时没有内容的短信不在其列

SELECT
    $1::text AS account,
    d.id AS message_id,
    d.phone,
    d.sent_at,
    d.earlier_id,
    extract(EPOCH FROM d.sent_at - d.earlier_at) AS seconds_after,
    d.segments,
    CASE
        WHEN audit.charged(t.basis, d.status) THEN d.segments * t.price
        WHEN t.price IS NOT NULL THEN 0
    END AS owed,
    $2::text AS currency
FROM (
    SELECT
        m.id,
        m.phone,
        m.sent_at,
        m.segments,
        m.status,
        lag(m.id) OVER same AS earlier_id,
        lag(m.sent_at) OVER same AS earlier_at
    FROM audit.sent_unmasked AS m
    WHERE
        m.account = $1::text
        AND m.sent_at >= $3::timestamptz - make_interval(mins => $4::integer)
        AND m.sent_at < $5::timestamptz
        AND m.content IS NOT NULL
        -- Most numbers got one message, and need not be sorted.
        AND m.phone IN (
            SELECT p.phone
            FROM audit.sent_unmasked AS p
            WHERE
                p.account = $1::text
                AND p.sent_at >= $3::timestamptz - make_interval(mins => $4::integer)
                AND p.sent_at < $5::timestamptz
            GROUP BY p.phone
            HAVING count(*) > 1
        )
    WINDOW same AS (PARTITION BY m.phone, m.content, m.sign ORDER BY m.sent_at, m.id)
) AS d
LEFT JOIN unnest($6::timestamptz[], $7::timestamptz[], $8::numeric[], $9::text[])
    AS t (starts, ends, price, basis)
    ON d.sent_at >= t.starts AND d.sent_at < t.ends
WHERE d.sent_at >= $3::timestamptz AND d.sent_at <= d.earlier_at + make_interval(mins => $4::integer)
ORDER BY d.sent_at, d.id
LIMIT $10::bigint;
