-- Asks: Which statements bill the same days twice?
-- 问: 哪些账单的日期相互重叠？
-- Parameter account (account, optional): only this account; all of them without it | 只查这个账号；不给则查全部账号
-- Parameter period (period): days in the account's zone, such as 2026-10 or 2026-10-01..2026-10-15 | 账期，按账号时区的日期，如 2026-10 或 2026-10-01..2026-10-15
-- Binds: account, last_day, first_day, limit
-- Column account (text) 账号: the account | 账号
-- Column statement_id (id) 账单ID: the statement that begins first | 先开始的账单
-- Column first_day (date) 账期首日: the first day of the statement's period | 账单账期的第一天
-- Column last_day (date) 账期末日: its last day | 账单账期的最后一天
-- Column other_id (id) 另一账单ID: the other one | 另一份账单
-- Column other_first_day (date) 另一首日: its first day | 另一份账单的第一天
-- Column other_last_day (date) 另一末日: its last day | 另一份账单的最后一天
-- Column days (integer) 重叠天数: days that both bill | 重叠的天数

SELECT
    $1::text AS account,
    s.id AS statement_id,
    s.first_day,
    s.last_day,
    o.id AS other_id,
    o.first_day AS other_first_day,
    o.last_day AS other_last_day,
    least(s.last_day, o.last_day) - o.first_day + 1 AS days
FROM audit.statements AS s
INNER JOIN audit.statements AS o
    ON
        s.account = o.account
        AND (s.first_day, s.last_day) < (o.first_day, o.last_day)
        AND s.last_day >= o.first_day
WHERE
    s.newest
    AND o.newest
    AND s.account = $1::text AND s.first_day <= $2::date AND s.last_day >= $3::date
ORDER BY s.first_day, s.last_day, o.first_day, o.last_day
LIMIT $4::bigint;
