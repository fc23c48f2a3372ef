-- Asks: Do reports fall on certain seconds of the minute?
-- 问: 回执时间是否集中在某些秒数上？
-- Parameter account (account, optional): only this account; all of them without it | 只查这个账号；不给则查全部账号
-- Parameter period (period): days in the account's zone, such as 2026-10 or 2026-10-01..2026-10-15 | 账期，按账号时区的日期，如 2026-10 或 2026-10-01..2026-10-15
-- Parameter percent (decimal, default 5, 0 to 100): of at least so many in 100 | 占比至少为百分之几
-- Parameter least (integer, default 100, 1 to 100000000): look only where there are at least so many messages | 至少有这么多短信才统计
-- Binds: account, starts, ends, percent, least, limit
-- Column account (text) 账号: the account | 账号
-- Column second (integer) 秒: the second of the minute, 0 to 59, of the vendor's time | 厂商时间的秒数，0 到 59
-- Column messages (integer) 送达数: delivered messages with that second | 落在该秒的送达短信数
-- Column percent (decimal) 占比: in 100 delivered messages; 1.67 would be even | 每百条送达短信中的数量；均匀时为 1.67
-- Note: a sign that reports may be made up, and no proof: ask the vendor for the carrier's own receipts | 只是回执可能造假的迹象，不是证据：请向厂商索要运营商的原始回执

SELECT
    $1::text AS account,
    s.second,
    s.messages,
    s.percent
FROM (
    SELECT
        floor(extract(SECOND FROM m.reported_at))::integer AS second,
        count(*) AS messages,
        round(100 * count(*) / sum(count(*)) OVER (), 2) AS percent,
        sum(count(*)) OVER () AS all_messages
    FROM audit.sent_unmasked AS m
    WHERE
        m.account = $1::text AND m.sent_at >= $2::timestamptz AND m.sent_at < $3::timestamptz
        AND m.status = 'delivered'
        AND m.reported_at IS NOT NULL
    GROUP BY 1
) AS s
WHERE s.percent >= $4::numeric AND s.all_messages >= $5::integer
ORDER BY s.messages DESC, s.second
LIMIT $6::bigint;
