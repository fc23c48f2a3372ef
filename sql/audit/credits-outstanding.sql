-- Asks: What was overbilled, what did the vendor credit, and what is still outstanding?
-- 问: 多收了多少，厂商退了多少，还有多少未退？
-- Parameter account (account, optional): only this account; all of them without it | 只查这个账号；不给则查全部账号
-- Parameter period (period): days in the account's zone, such as 2026-10 or 2026-10-01..2026-10-15 | 账期，按账号时区的日期，如 2026-10 或 2026-10-01..2026-10-15
-- Binds: account, last_day, first_day, limit
-- Column account (text) 账号: the account | 账号
-- Column first_day (date) 账期首日: the first day of the reconciled period | 对账账期的第一天
-- Column last_day (date) 账期末日: its last day | 账单账期的最后一天
-- Column overbilled (decimal) 多收: billed less owed in the last reconciliation, credits left out | 最近一次对账中账单减应付（不含退款）
-- Column credited (decimal) 退款: what lines with a negative amount give back | 负金额账单行退回的金额
-- Column outstanding (decimal) 未退: overbilled less credited, up to and with this period | 截至该账期累计多收减累计退款
-- Column currency (text) 币种: the currency of the amounts | 金额的币种
-- Note: a vendor credits in a later statement: give a period of several months | 厂商通常在以后的账单中退款，请给出跨多个月的账期

WITH ended AS MATERIALIZED (
    SELECT
        r.first_day,
        r.last_day,
        r.statement_id,
        r.difference_amount,
        r.currency
    FROM audit.runs AS r
    WHERE r.account = $1::text AND r.first_day <= $2::date AND r.last_day >= $3::date AND r.newest
),

credited AS MATERIALIZED (
    SELECT
        l.statement_id,
        -sum(l.amount) AS amount
    FROM (SELECT DISTINCT e.statement_id FROM ended AS e) AS s
    INNER JOIN lines AS l ON s.statement_id = l.statement_id
    WHERE l.amount < 0
    GROUP BY l.statement_id
)

SELECT
    $1::text AS account,
    r.first_day,
    r.last_day,
    r.difference_amount + coalesce(c.amount, 0) AS overbilled,
    coalesce(c.amount, 0) AS credited,
    sum(r.difference_amount) OVER (ORDER BY r.first_day, r.last_day) AS outstanding,
    r.currency
FROM ended AS r
LEFT JOIN credited AS c ON r.statement_id = c.statement_id
ORDER BY r.first_day, r.last_day
LIMIT $4::bigint;
