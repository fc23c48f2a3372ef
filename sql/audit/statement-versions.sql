-- Asks: What did the vendor change from one version of a statement to the next?
-- 问: 厂商在账单的各个版本之间改了什么？
-- Parameter account (account, optional): only this account; all of them without it | 只查这个账号；不给则查全部账号
-- Parameter period (period): days in the account's zone, such as 2026-10 or 2026-10-01..2026-10-15 | 账期，按账号时区的日期，如 2026-10 或 2026-10-01..2026-10-15
-- Binds: account, last_day, first_day, limit
-- Column account (text) 账号: the account | 账号
-- Column first_day (date) 账期首日: the first day of the statement's period | 账单账期的第一天
-- Column last_day (date) 账期末日: its last day | 账单账期的最后一天
-- Column version (integer) 版本: the version | 版本
-- Column file_name (text) 文件: the imported file | 导入的文件名
-- Column imported_at (time) 导入时间: when it was imported | 导入的时间
-- Column lines (integer) 行数: its lines | 账单行数
-- Column segments (integer) 计费条数: its billed segments | 计费条数
-- Column amount (decimal) 金额: what it bills; empty without amounts | 账单金额；没有则为空
-- Column amount_change (decimal) 金额变化: against the version before; empty for the first | 与上一版本相比的金额变化；首版为空
-- Column lines_added (integer) 新增行: lines that the version before has not, or has otherwise; empty for the first | 上一版本没有或不同的行数；首版为空
-- Column lines_gone (integer) 消失行: lines of the version before that this one has not, or has otherwise; empty for the first | 上一版本有而本版没有或不同的行数；首版为空
-- Note: of statements that share a day with the period | 取与账期有重叠日期的账单

WITH versions AS MATERIALIZED (
    SELECT
        s.id,
        s.first_day,
        s.last_day,
        s.version,
        s.file_name,
        s.imported_at,
        s.lines,
        s.segments,
        s.amount,
        p.id AS before_id,
        p.amount AS amount_before
    FROM statements AS s
    LEFT JOIN statements AS p
        ON
            s.account = p.account
            AND s.first_day = p.first_day
            AND s.last_day = p.last_day
            AND s.version = p.version + 1
    WHERE s.account = $1::text AND s.first_day <= $2::date AND s.last_day >= $3::date
),

sides AS MATERIALIZED (
    SELECT
        v.id,
        t.statement_id,
        t.lines
    FROM versions AS v
    CROSS JOIN LATERAL (VALUES (v.id, 1), (v.before_id, -1)) AS t (statement_id, lines)
    WHERE v.before_id IS NOT NULL
),

changed AS MATERIALIZED (
    SELECT
        t.id,
        sum(t.lines) AS lines
    FROM sides AS t
    INNER JOIN lines AS l ON t.statement_id = l.statement_id
    GROUP BY t.id, l.vendor_message_id, l.phone, l.segments, l.amount
),

counted AS (
    SELECT
        c.id,
        sum(greatest(c.lines, 0))::bigint AS added,
        sum(greatest(-c.lines, 0))::bigint AS gone
    FROM changed AS c
    GROUP BY c.id
)

SELECT
    $1::text AS account,
    v.first_day,
    v.last_day,
    v.version,
    v.file_name,
    v.imported_at,
    v.lines,
    v.segments,
    v.amount,
    v.amount - v.amount_before AS amount_change,
    CASE WHEN v.before_id IS NOT NULL THEN coalesce(c.added, 0) END AS lines_added,
    CASE WHEN v.before_id IS NOT NULL THEN coalesce(c.gone, 0) END AS lines_gone
FROM versions AS v
LEFT JOIN counted AS c ON v.id = c.id
ORDER BY v.first_day, v.last_day, v.version
LIMIT $4::bigint;
