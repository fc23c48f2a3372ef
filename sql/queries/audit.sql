-- What the billing audit asks beside its own queries, which stand in sql/audit.

-- name: audit_bounds
-- Bounds this transaction's statements in time, and has each planned for the values that it is given.
SELECT
    set_config('statement_timeout', $1, TRUE),
    set_config('plan_cache_mode', 'force_custom_plan', TRUE),
    set_config('work_mem', '64MB', TRUE);
