-- Asks: What does one delivered message cost, by what was billed, under each sign and template?
-- 问: 按账单金额，各签名和模板每送达一条短信花多少钱？
-- Parameter account (account, optional): only this account; all of them without it | 只查这个账号；不给则查全部账号
-- Parameter period (period): days in the account's zone, such as 2026-10 or 2026-10-01..2026-10-15 | 账期，按账号时区的日期，如 2026-10 或 2026-10-01..2026-10-15
-- Binds: tariff_starts, tariff_ends, tariff_prices, tariff_bases, account, starts, ends, currency, limit
-- Column account (text) 账号: the account | 账号
-- Column sign (text) 签名: the sign as registered; empty without one | 登记的签名；没有则为空
-- Column template_id (text) 模板: the template's id; empty without one | 模板编号；没有则为空
-- Column messages (integer) 短信数: registered messages | 登记的短信数
-- Column delivered (integer) 送达数: of these, delivered | 其中送达的短信数
-- Column lines (integer) 行数: lines for these messages | 这些短信的账单行数
-- Column billed (decimal) 账单金额: what those lines bill | 这些行的金额
-- Column cost_per_delivered (decimal) 每条送达成本: billed divided by delivered, to six places; empty if none was delivered | 账单金额除以送达数，六位小数；没有送达则为空
-- Column currency (text) 币种: the currency of the amounts | 金额的币种

WITH billed AS (
    SELECT
        l.shard,
        l.message_id,
        count(*) AS lines,
        sum(coalesce(l.amount, l.segments * t.price)) AS amount
    FROM audit.lines_unmasked AS l
    LEFT JOIN unnest($1::timestamptz[], $2::timestamptz[], $3::numeric[], $4::text[])
    AS t (starts, ends, price, basis)
        ON l.message_sent_at >= t.starts AND l.message_sent_at < t.ends
    WHERE
        l.account = $5::text
        AND l.newest
        AND l.message_sent_at >= $6::timestamptz
        AND l.message_sent_at < $7::timestamptz
    GROUP BY l.shard, l.message_id
)

SELECT
    $5::text AS account,
    m.sign,
    m.template_id,
    count(*) AS messages,
    count(*) FILTER (WHERE m.status = 'delivered') AS delivered,
    coalesce(sum(b.lines), 0)::bigint AS lines,
    coalesce(sum(b.amount), 0) AS billed,
    round(coalesce(sum(b.amount), 0) / nullif(count(*) FILTER (WHERE m.status = 'delivered'), 0), 6) AS cost_per_delivered,
    $8::text AS currency
FROM audit.sent_unmasked AS m
LEFT JOIN billed AS b ON m.shard = b.shard AND m.id = b.message_id
WHERE m.account = $5::text AND m.sent_at >= $6::timestamptz AND m.sent_at < $7::timestamptz
GROUP BY m.sign, m.template_id
ORDER BY billed DESC, m.sign, m.template_id
LIMIT $9::bigint;
