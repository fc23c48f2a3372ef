-- Asks: Which lines bill a message that was not delivered, though only delivery is charged for?
-- 问: 按送达计费时，哪些账单行收费的短信并未送达？
-- Parameter account (account, optional): only this account; all of them without it | 只查这个账号；不给则查全部账号
-- Parameter period (period): days in the account's zone, such as 2026-10 or 2026-10-01..2026-10-15 | 账期，按账号时区的日期，如 2026-10 或 2026-10-01..2026-10-15
-- Binds: account, currency, tariff_starts, tariff_ends, tariff_prices, tariff_bases, last_day, first_day, limit
-- Column account (text) 账号: the account | 账号
-- Column statement_id (id) 账单ID: the statement | 账单的编号
-- Column first_day (date) 账期首日: the first day of the statement's period | 账单账期的第一天
-- Column last_day (date) 账期末日: its last day | 账单账期的最后一天
-- Column line (integer) 行号: the line in the statement's file | 账单文件中的行号
-- Column message_id (id) 短信ID: the message, as GET /v1/messages/{id} shows it | 短信的编号，可用 GET /v1/messages/{id} 查看
-- Column phone (text) 手机号: the number | 手机号
-- Column sent_at (time) 发送时间: when it was sent | 发送时间
-- Column status (text) 状态: the message's state | 短信的状态
-- Column vendor_code (text) 厂商代码: the vendor's code for it; empty without a report | 厂商的状态码；没有回执则为空
-- Column segments (integer) 计费条数: billed segments | 计费条数
-- Column amount (decimal) 金额: the line's amount, or else its segments at the tariff's price | 该行金额；没有则按条数乘资费单价
-- Column currency (text) 币种: the currency of the amounts | 金额的币种
-- Note: newest versions of statements that share a day with the period | 取与账期有重叠日期的账单的最新版本

SELECT
    $1::text AS account,
    l.statement_id,
    l.first_day,
    l.last_day,
    l.line,
    m.id AS message_id,
    m.phone,
    m.sent_at,
    m.status,
    m.vendor_code,
    l.segments,
    coalesce(l.amount, l.segments * t.price) AS amount,
    $2::text AS currency
FROM audit.lines_unmasked AS l
INNER JOIN audit.sent_unmasked AS m ON l.shard = m.shard AND l.message_id = m.id
INNER JOIN unnest($3::timestamptz[], $4::timestamptz[], $5::numeric[], $6::text[])
    AS t (starts, ends, price, basis)
    ON m.sent_at >= t.starts AND m.sent_at < t.ends AND t.basis = 'delivered'
WHERE
    l.account = $1::text
    AND l.newest
    AND l.first_day <= $7::date
    AND l.last_day >= $8::date
    AND m.status <> 'delivered'
ORDER BY l.first_day, l.last_day, l.line
LIMIT $9::bigint;
