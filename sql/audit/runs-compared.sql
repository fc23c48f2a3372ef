-- Asks: How did the result of a period change from one reconciliation to the next?
-- 问: 同一账期历次对账的结果有何变化？
-- Parameter account (account, optional): only this account; all of them without it | 只查这个账号；不给则查全部账号
-- Parameter period (period): days in the account's zone, such as 2026-10 or 2026-10-01..2026-10-15 | 账期，按账号时区的日期，如 2026-10 或 2026-10-01..2026-10-15
-- Binds: account, last_day, first_day, limit
-- Column account (text) 账号: the account | 账号
-- Column first_day (date) 账期首日: the first day of the reconciled period | 对账账期的第一天
-- Column last_day (date) 账期末日: its last day | 账单账期的最后一天
-- Column run_at (time) 对账时间: when it was reconciled | 对账的时间
-- Column run_id (id) 对账ID: the reconciliation | 对账的编号
-- Column statement_version (integer) 账单版本: the statement's version that it went by | 所用账单的版本
-- Column status (text) 结果: balanced or discrepant | 平或有差异
-- Column owed (decimal) 应付: what the tariffs ask; empty without a tariff | 按资费应付的金额；没有资费则为空
-- Column billed (decimal) 账单金额: what the statement billed | 账单的金额
-- Column difference (decimal) 差额: billed less owed | 账单金额减应付
-- Column change (decimal) 变化: against the difference of the run before; empty for the first | 与上一次对账差额相比的变化；首次为空
-- Column currency (text) 币种: the currency of the amounts | 金额的币种
-- Note: of periods that share a day with the one asked for | 取与所问账期有重叠日期的账期

SELECT
    $1::text AS account,
    r.first_day,
    r.last_day,
    r.run_at,
    r.id AS run_id,
    r.statement_version,
    r.status,
    r.owed_amount AS owed,
    r.billed_amount AS billed,
    r.difference_amount AS difference,
    r.difference_amount - lag(r.difference_amount) OVER (
        PARTITION BY r.first_day, r.last_day
        ORDER BY r.run_at, r.id
    ) AS change,
    r.currency
FROM audit.runs AS r
WHERE r.account = $1::text AND r.first_day <= $2::date AND r.last_day >= $3::date
ORDER BY r.first_day, r.last_day, r.run_at, r.id
LIMIT $4::bigint;
