-- Asks: How did the first final report of each message come: pushed, asked for, or pulled?
-- 问: 各短信的首个终态报告从何而来：推送、补查还是拉取？
-- Parameter account (account, optional): only this account; all of them without it | 只查这个账号；不给则查全部账号
-- Parameter period (period): days in the account's zone, such as 2026-10 or 2026-10-01..2026-10-15 | 账期，按账号时区的日期，如 2026-10 或 2026-10-01..2026-10-15
-- Binds: account, starts, ends, limit
-- Column account (text) 账号: the account | 账号
-- Column source (text) 来源: push (the vendor's callback), query (we asked) or pull (read once); empty without a final report | 推送、补查或拉取；没有终态报告则为空
-- Column messages (integer) 短信数: registered messages | 登记的短信数
-- Column percent (decimal) 占比: in 100 messages | 每百条短信中的数量
-- Note: a high share of query means that the vendor's pushes do not arrive | 补查占比高说明厂商的推送没有到达

SELECT
    $1::text AS account,
    r.source,
    count(*) AS messages,
    round(100 * count(*) / sum(count(*)) OVER (), 2) AS percent
FROM audit.sent_unmasked AS m
LEFT JOIN LATERAL (
    SELECT f.source
    FROM reports AS f
    WHERE f.shard = m.shard AND f.message_id = m.id AND f.status IN ('delivered', 'failed') AND NOT f.left_out
    ORDER BY f.received_at, f.source
    LIMIT 1
) AS r ON TRUE
WHERE m.account = $1::text AND m.sent_at >= $2::timestamptz AND m.sent_at < $3::timestamptz
GROUP BY r.source
ORDER BY messages DESC, r.source
LIMIT $4::bigint;
