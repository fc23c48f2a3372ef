-- Asks: In which states are the messages, and what is owed for each state?
-- 问: 各状态的短信有多少，各应付多少？
-- Parameter account (account, optional): only this account; all of them without it | 只查这个账号；不给则查全部账号
-- Parameter period (period): days in the account's zone, such as 2026-10 or 2026-10-01..2026-10-15 | 账期，按账号时区的日期，如 2026-10 或 2026-10-01..2026-10-15
-- Binds: tariff_starts, tariff_ends, tariff_prices, tariff_bases, account, starts, ends, currency, limit
-- Column account (text) 账号: the account | 账号
-- Column status (text) 状态: the message's state | 短信的状态
-- Column messages (integer) 短信数: registered messages | 登记的短信数
-- Column percent (decimal) 占比: in 100 messages | 每百条短信中的数量
-- Column segments (integer) 条数: their segments, as we count | 按我方规则计算的条数
-- Column owed (decimal) 应付: what the tariffs ask; empty without a tariff | 按资费应付的金额；没有资费则为空
-- Column currency (text) 币种: the currency of the amounts | 金额的币种

WITH counted AS (
    SELECT
        m.status,
        count(*) AS messages,
        sum(m.segments) AS segments,
        CASE
            WHEN audit.charged(t.basis, m.status) THEN sum(m.segments) * t.price
            WHEN t.price IS NOT NULL THEN 0
        END AS owed
    FROM messages AS m
    LEFT JOIN unnest($1::timestamptz[], $2::timestamptz[], $3::numeric[], $4::text[])
        AS t (starts, ends, price, basis)
        ON m.sent_at >= t.starts AND m.sent_at < t.ends
    WHERE m.account = $5::text AND m.sent_at >= $6::timestamptz AND m.sent_at < $7::timestamptz
    GROUP BY m.status, t.price, t.basis
)

SELECT
    $5::text AS account,
    c.status,
    sum(c.messages)::bigint AS messages,
    round(100 * sum(c.messages) / sum(sum(c.messages)) OVER (), 2) AS percent,
    sum(c.segments)::bigint AS segments,
    sum(c.owed) AS owed,
    $8::text AS currency
FROM counted AS c
GROUP BY c.status
ORDER BY messages DESC, c.status
LIMIT $9::bigint;
