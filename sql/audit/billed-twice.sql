-- Asks: Which messages of the period are billed more than once, in one statement or in several?
-- 问: 账期内哪些短信被重复计费（同一账单或多份账单）？
-- Parameter account (account, optional): only this account; all of them without it | 只查这个账号；不给则查全部账号
-- Parameter period (period): days in the account's zone, such as 2026-10 or 2026-10-01..2026-10-15 | 账期，按账号时区的日期，如 2026-10 或 2026-10-01..2026-10-15
-- Binds: account, currency, tariff_starts, tariff_ends, tariff_prices, tariff_bases, starts, ends, limit
-- Column account (text) 账号: the account | 账号
-- Column message_id (id) 短信ID: the message, as GET /v1/messages/{id} shows it | 短信的编号，可用 GET /v1/messages/{id} 查看
-- Column vendor_message_id (text) 任务ID: the vendor's id | 厂商的任务 ID
-- Column phone (text) 手机号: the number | 手机号
-- Column sent_at (time) 发送时间: when it was sent | 发送时间
-- Column lines (integer) 行数: lines that bill it | 对其收费的账单行数
-- Column statements (integer) 账单数: in so many statements | 这些行所在的账单数
-- Column segments (integer) 计费条数: billed segments of all these lines | 这些行的计费条数合计
-- Column extra (decimal) 多收金额: what the lines beyond the first bill, in the order of their statements' days | 第一行以外各行的金额（按账单日期先后）
-- Column currency (text) 币种: the currency of the amounts | 金额的币种

SELECT
    $1::text AS account,
    d.message_id,
    min(d.vendor_message_id) AS vendor_message_id,
    min(d.phone) AS phone,
    min(d.message_sent_at) AS sent_at,
    count(*) AS lines,
    count(DISTINCT d.statement_id) AS statements,
    sum(d.segments) AS segments,
    coalesce(sum(d.amount) FILTER (WHERE d.nth > 1), 0) AS extra,
    $2::text AS currency
FROM (
    SELECT
        l.shard,
        l.message_id,
        l.vendor_message_id,
        l.phone,
        l.message_sent_at,
        l.statement_id,
        l.segments,
        coalesce(
            l.amount,
            l.segments * (
                SELECT t.price
                FROM unnest($3::timestamptz[], $4::timestamptz[], $5::numeric[], $6::text[])
                    AS t (starts, ends, price, basis)
                WHERE l.message_sent_at >= t.starts AND l.message_sent_at < t.ends
            )
        ) AS amount,
        row_number() OVER (
            PARTITION BY l.shard, l.message_id ORDER BY l.first_day, l.last_day, l.line
        ) AS nth
    FROM audit.lines_unmasked AS l
    WHERE
        l.account = $1::text
        AND l.newest
        AND l.message_sent_at >= $7::timestamptz
        AND l.message_sent_at < $8::timestamptz
) AS d
GROUP BY d.shard, d.message_id
HAVING count(*) > 1
ORDER BY sent_at, d.message_id
LIMIT $9::bigint;
