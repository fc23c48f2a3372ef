-- Asks: Which lines bill a message that nobody registered?
-- 问: 哪些账单行收费的短信没有任何发送登记？
-- Parameter account (account, optional): only this account; all of them without it | 只查这个账号；不给则查全部账号
-- Parameter period (period): days in the account's zone, such as 2026-10 or 2026-10-01..2026-10-15 | 账期，按账号时区的日期，如 2026-10 或 2026-10-01..2026-10-15
-- Binds: account, last_day, first_day, limit
-- Column account (text) 账号: the account | 账号
-- Column statement_id (id) 账单ID: the statement | 账单的编号
-- Column first_day (date) 账期首日: the first day of the statement's period | 账单账期的第一天
-- Column last_day (date) 账期末日: its last day | 账单账期的最后一天
-- Column line (integer) 行号: the line in the statement's file | 账单文件中的行号
-- Column vendor_message_id (text) 任务ID: the vendor's id | 厂商的任务 ID
-- Column phone (text) 手机号: the number on the line; empty if it has none | 账单行上的手机号；没有则为空
-- Column segments (integer) 计费条数: billed segments | 计费条数
-- Column amount (decimal) 金额: the line's amount; empty if it has none | 该行金额；没有则为空
-- Column sent_at (time) 账单发送时间: when the line says it was sent; empty if it does not | 账单行写明的发送时间；没有则为空
-- Note: newest versions of statements that share a day with the period | 取与账期有重叠日期的账单的最新版本

SELECT
    $1::text AS account,
    l.statement_id,
    l.first_day,
    l.last_day,
    l.line,
    l.vendor_message_id,
    l.phone,
    l.segments,
    l.amount,
    l.sent_at
FROM audit.lines_unmasked AS l
WHERE
    l.account = $1::text
    AND l.newest
    AND l.first_day <= $2::date
    AND l.last_day >= $3::date
    AND l.message_id IS NULL
ORDER BY l.first_day, l.last_day, l.line
LIMIT $4::bigint;
