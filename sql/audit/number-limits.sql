-- Asks: Which numbers got more messages in a minute, an hour or a day than they should?
-- 问: 哪些号码在一分钟、一小时或一天内收到的短信超过上限？
-- Parameter account (account, optional): only this account; all of them without it | 只查这个账号；不给则查全部账号
-- Parameter period (period): days in the account's zone, such as 2026-10 or 2026-10-01..2026-10-15 | 账期，按账号时区的日期，如 2026-10 或 2026-10-01..2026-10-15
-- Parameter per_minute (integer, default 1, 1 to 1000000): allowed within 60 seconds | 60 秒内允许的条数
-- Parameter per_hour (integer, default 5, 1 to 1000000): allowed within 60 minutes | 60 分钟内允许的条数
-- Parameter per_day (integer, default 10, 1 to 1000000): allowed on a day | 一天内允许的条数
-- Binds: account, per_minute, per_hour, per_day, zone, starts, ends, limit
-- Column account (text) 账号: the account | 账号
-- Column phone (text) 手机号: the number | 手机号
-- Column messages (integer) 短信数: registered messages | 登记的短信数
-- Column most_in_minute (integer) 一分钟最多: the most in any 60 seconds | 任意 60 秒内最多的条数
-- Column most_in_hour (integer) 一小时最多: the most in any 60 minutes | 任意 60 分钟内最多的条数
-- Column most_in_day (integer) 一天最多: the most on one day of the account's zone | 账号时区一天内最多的条数
-- Column over (integer) 超限数: messages that were over one of the limits | 超过任一上限的短信数
-- Note: the defaults are ThinkAPI's: 1 a minute, 5 an hour, 10 a day | 缺省值是 ThinkAPI 的限制：每分钟 1 条、每小时 5 条、每天 10 条

SELECT
    $1::text AS account,
    w.phone,
    count(*) AS messages,
    max(w.in_minute) AS most_in_minute,
    max(w.in_hour) AS most_in_hour,
    max(w.in_day) AS most_in_day,
    count(*) FILTER (
        WHERE w.in_minute > $2::integer OR w.in_hour > $3::integer OR w.in_day > $4::integer
    ) AS over
FROM (
    SELECT
        m.phone,
        m.sent_at,
        count(*) OVER (
            PARTITION BY m.phone
            ORDER BY m.sent_at
            RANGE BETWEEN interval '59.999999 seconds' PRECEDING AND CURRENT ROW
        ) AS in_minute,
        count(*) OVER (
            PARTITION BY m.phone
            ORDER BY m.sent_at
            RANGE BETWEEN interval '59 minutes 59.999999 seconds' PRECEDING AND CURRENT ROW
        ) AS in_hour,
        row_number() OVER (
            PARTITION BY m.phone, (m.sent_at AT TIME ZONE $5::text)::date
            ORDER BY m.sent_at
        ) AS in_day
    FROM audit.sent_unmasked AS m
    WHERE
        m.account = $1::text
        AND m.sent_at >= $6::timestamptz - interval '1 hour'
        AND m.sent_at < $7::timestamptz
        -- Most numbers got no more than the lowest limit, and need not be sorted.
        AND m.phone IN (
            SELECT p.phone
            FROM audit.sent_unmasked AS p
            WHERE
                p.account = $1::text
                AND p.sent_at >= $6::timestamptz - interval '1 hour'
                AND p.sent_at < $7::timestamptz
            GROUP BY p.phone
            HAVING count(*) > least($2::integer, $3::integer, $4::integer)
        )
) AS w
WHERE w.sent_at >= $6::timestamptz
GROUP BY w.phone
HAVING max(w.in_minute) > $2::integer OR max(w.in_hour) > $3::integer OR max(w.in_day) > $4::integer
ORDER BY over DESC, w.phone
LIMIT $8::bigint;
