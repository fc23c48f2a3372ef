-- Asks: Why did messages fail, by the vendor's codes and words?
-- 问: 短信为什么失败（按厂商的代码和说明）？
-- Parameter account (account, optional): only this account; all of them without it | 只查这个账号；不给则查全部账号
-- Parameter period (period): days in the account's zone, such as 2026-10 or 2026-10-01..2026-10-15 | 账期，按账号时区的日期，如 2026-10 或 2026-10-01..2026-10-15
-- Binds: account, starts, ends, limit
-- Column account (text) 账号: the account | 账号
-- Column vendor_code (text) 厂商代码: the vendor's code | 厂商的状态码
-- Column reason (text) 原因: the vendor's words; empty if it gave none | 厂商的说明；没有则为空
-- Column messages (integer) 失败数: failed messages | 失败的短信数
-- Column percent (decimal) 占比: in 100 failed messages | 每百条失败短信中的数量
-- Column phones (integer) 号码数: different numbers among them | 其中不同号码的数量

SELECT
    $1::text AS account,
    m.vendor_code,
    m.reason,
    count(*) AS messages,
    round(100 * count(*) / sum(count(*)) OVER (), 2) AS percent,
    count(DISTINCT m.phone) AS phones
FROM audit.sent_unmasked AS m
WHERE
    m.account = $1::text AND m.sent_at >= $2::timestamptz AND m.sent_at < $3::timestamptz
    AND m.status = 'failed'
GROUP BY m.vendor_code, m.reason
ORDER BY messages DESC, m.vendor_code, m.reason
LIMIT $4::bigint;
