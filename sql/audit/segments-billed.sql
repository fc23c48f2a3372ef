-- Asks: How many segments were billed for messages of so many segments of ours?
-- 问: 我方计为若干条的短信，账单按几条收费？
-- Parameter account (account, optional): only this account; all of them without it | 只查这个账号；不给则查全部账号
-- Parameter period (period): days in the account's zone, such as 2026-10 or 2026-10-01..2026-10-15 | 账期，按账号时区的日期，如 2026-10 或 2026-10-01..2026-10-15
-- Binds: account, currency, tariff_starts, tariff_ends, tariff_prices, tariff_bases, starts, ends, limit
-- Column account (text) 账号: the account | 账号
-- Column our_segments (integer) 我方条数: segments of each message, as we count | 每条短信按我方规则的条数
-- Column billed_segments (integer) 账单条数: segments that a line bills for it | 账单行的计费条数
-- Column lines (integer) 行数: how many lines | 这样的行数
-- Column extra_segments (integer) 多计条数: billed less ours, over these lines | 账单条数减我方条数的合计
-- Column extra_amount (decimal) 多计金额: those at the tariff's price; empty without a tariff | 多计条数按资费的金额；没有资费则为空
-- Column currency (text) 币种: the currency of the amounts | 金额的币种

SELECT
    $1::text AS account,
    l.message_segments AS our_segments,
    l.segments AS billed_segments,
    count(*) AS lines,
    sum(l.segments - l.message_segments)::bigint AS extra_segments,
    sum(
        (l.segments - l.message_segments)
        * (
            SELECT t.price
            FROM unnest($3::timestamptz[], $4::timestamptz[], $5::numeric[], $6::text[])
                AS t (starts, ends, price, basis)
            WHERE l.message_sent_at >= t.starts AND l.message_sent_at < t.ends
        )
    ) AS extra_amount,
    $2::text AS currency
FROM audit.lines_unmasked AS l
WHERE
    l.account = $1::text
    AND l.newest
    AND l.message_sent_at >= $7::timestamptz
    AND l.message_sent_at < $8::timestamptz
GROUP BY l.message_segments, l.segments
ORDER BY l.message_segments, l.segments
LIMIT $9::bigint;
