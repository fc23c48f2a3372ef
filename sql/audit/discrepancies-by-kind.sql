-- Asks: What did the last reconciliation of each period find, by kind?
-- 问: 各账期最近一次对账发现了哪些差异？
-- Parameter account (account, optional): only this account; all of them without it | 只查这个账号；不给则查全部账号
-- Parameter period (period): days in the account's zone, such as 2026-10 or 2026-10-01..2026-10-15 | 账期，按账号时区的日期，如 2026-10 或 2026-10-01..2026-10-15
-- Binds: account, last_day, first_day, limit
-- Column account (text) 账号: the account | 账号
-- Column first_day (date) 账期首日: the first day of the reconciled period | 对账账期的第一天
-- Column last_day (date) 账期末日: its last day | 账单账期的最后一天
-- Column run_at (time) 对账时间: when it was reconciled | 对账的时间
-- Column kind (text) 差异类型: the kind of discrepancy | 差异类型
-- Column count (integer) 数量: how many | 差异的数量
-- Column segments (integer) 条数: segments billed less owed | 账单条数减应付条数
-- Column amount (decimal) 金额: billed less owed | 账单金额减应付
-- Column currency (text) 币种: the currency of the amounts | 金额的币种
-- Note: of periods that share a day with the one asked for | 取与所问账期有重叠日期的账期

SELECT
    $1::text AS account,
    r.first_day,
    r.last_day,
    r.run_at,
    d.kind,
    count(*) AS count,
    sum(d.segments)::bigint AS segments,
    sum(d.amount) AS amount,
    r.currency
FROM audit.runs AS r
INNER JOIN discrepancies AS d ON r.id = d.run_id
WHERE r.account = $1::text AND r.first_day <= $2::date AND r.last_day >= $3::date AND r.newest
GROUP BY r.first_day, r.last_day, r.run_at, r.currency, d.kind
ORDER BY r.first_day, r.last_day, d.kind
LIMIT $4::bigint;
