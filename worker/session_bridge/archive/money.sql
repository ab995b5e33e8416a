-- name: rates
-- Every rate, in a fixed order.
SELECT service, provider, model, unit, price_cents, valid_from, valid_to, currency, step, id
FROM provider_rates ORDER BY service, provider, model, unit, valid_from;

-- name: lock_rates
-- Whoever changes rates does it alone.
LOCK TABLE provider_rates IN SHARE ROW EXCLUSIVE MODE;

-- name: end_rate
-- The rate for this thing that holds at a moment holds no longer than until then.
UPDATE provider_rates SET valid_to = %(at)s
WHERE service = %(service)s AND provider = %(provider)s AND model = %(model)s AND unit = %(unit)s
    AND valid_from < %(at)s AND (valid_to IS NULL OR valid_to > %(at)s);

-- name: replace_rate
-- A rate that begins at the same moment gives way to the new one.
DELETE FROM provider_rates
WHERE service = %(service)s AND provider = %(provider)s AND model = %(model)s AND unit = %(unit)s
    AND valid_from = %(at)s;

-- name: enter_rate
-- A new rate; it ends where a later one for the same thing begins.
INSERT INTO provider_rates (service, provider, model, unit, price_cents, currency, step, valid_from, valid_to)
VALUES (
    %(service)s, %(provider)s, %(model)s, %(unit)s, %(price_cents)s, %(currency)s, %(step)s, %(at)s,
    least(%(until)s::timestamptz, (
        SELECT min(valid_from) FROM provider_rates
        WHERE service = %(service)s AND provider = %(provider)s AND model = %(model)s AND unit = %(unit)s
            AND valid_from > %(at)s)))
RETURNING id;

-- name: last_settlements
-- How each of these calls was settled last.
SELECT DISTINCT ON (session_id) session_id, tenant_id, user_id, currency, charge_cents, shortfall_cents
FROM credit_transactions WHERE session_id = ANY(%(session_ids)s::uuid[])
ORDER BY session_id, id DESC;

-- name: lock_credits
-- Lock these users' balances, in one order everywhere, and make those that are not there. One statement does both, so
-- that a batch never holds a new row while it waits for an older one before it.
INSERT INTO user_credits AS kept (tenant_id, user_id, currency)
SELECT * FROM unnest(%(tenant_id)s::text[], %(user_id)s::text[], %(currency)s::text[])
    AS wanted (tenant_id, user_id, currency)
ORDER BY tenant_id COLLATE "C", user_id COLLATE "C", currency COLLATE "C"
ON CONFLICT (tenant_id, user_id, currency) DO UPDATE SET updated_at = kept.updated_at
RETURNING tenant_id, user_id, currency, balance_cents;

-- name: enter_settlements
-- Deductions and adjustments, in the order in which they were taken.
INSERT INTO credit_transactions (
    tenant_id, user_id, currency, kind, session_id, amount_cents, balance_before, balance_after, charge_cents,
    shortfall_cents)
SELECT
    tenant_id, user_id, currency, kind, session_id, amount_cents, balance_before, balance_after, charge_cents,
    shortfall_cents
FROM unnest(
    %(tenant_id)s::text[], %(user_id)s::text[], %(currency)s::text[], %(kind)s::text[], %(session_id)s::uuid[],
    %(amount_cents)s::numeric[], %(balance_before)s::numeric[], %(balance_after)s::numeric[],
    %(charge_cents)s::numeric[], %(shortfall_cents)s::numeric[]) WITH ORDINALITY
    AS entry (
        tenant_id, user_id, currency, kind, session_id, amount_cents, balance_before, balance_after, charge_cents,
        shortfall_cents, place)
ORDER BY place;

-- name: set_balances
-- The balances that these leave.
UPDATE user_credits AS kept SET balance_cents = left_over.balance_cents, updated_at = now()
FROM unnest(%(tenant_id)s::text[], %(user_id)s::text[], %(currency)s::text[], %(balance_cents)s::numeric[])
    AS left_over (tenant_id, user_id, currency, balance_cents)
WHERE kept.tenant_id = left_over.tenant_id AND kept.user_id = left_over.user_id
    AND kept.currency = left_over.currency;

-- name: grant_credits
-- Give a user credit.
SELECT grant_credits(%(tenant_id)s, %(user_id)s, %(amount_cents)s, %(currency)s, %(note)s);

-- name: balances
-- What users have.
SELECT tenant_id, user_id, currency, balance_cents, updated_at FROM user_credits
WHERE (%(user_id)s::text IS NULL OR user_id = %(user_id)s) AND (%(tenant_id)s::text IS NULL OR tenant_id = %(tenant_id)s)
ORDER BY tenant_id, user_id, currency
LIMIT %(limit)s;

-- name: credit_history
-- How one user's balance came about, the latest first.
SELECT entry.id, entry.created_at, entry.kind, entry.currency, entry.amount_cents, entry.balance_before,
    entry.balance_after, entry.charge_cents, entry.shortfall_cents, entry.session_id, entry.note
FROM credit_transactions AS entry
WHERE entry.user_id = %(user_id)s AND entry.tenant_id = %(tenant_id)s
ORDER BY entry.id DESC
LIMIT %(limit)s;

-- name: lock_budgets
-- Lock these users' budgets, in one order everywhere; those who have none are left out.
SELECT tenant_id, user_id, month, warned_at, exceeded_at FROM user_budget_settings
WHERE (tenant_id, user_id) IN (SELECT * FROM unnest(%(tenant_id)s::text[], %(user_id)s::text[]))
ORDER BY tenant_id COLLATE "C", user_id COLLATE "C"
FOR UPDATE;

-- name: add_up_budgets
-- Add up what the ended calls of these users' month cost. A threshold that was reached stays so for the month.
UPDATE user_budget_settings AS budget SET
    month = %(month)s,
    month_spend_cents = now_spent.cents,
    warned_at = now_spent.warned_at,
    exceeded_at = now_spent.exceeded_at
FROM (
    SELECT
        kept.tenant_id, kept.user_id, spent.ended_cents AS cents,
        CASE
            WHEN kept.month = %(month)s AND kept.warned_at IS NOT NULL THEN kept.warned_at
            WHEN spent.ended_cents >= kept.warning_threshold * kept.monthly_budget_cents THEN %(at)s::timestamptz
        END AS warned_at,
        CASE
            WHEN kept.month = %(month)s AND kept.exceeded_at IS NOT NULL THEN kept.exceeded_at
            WHEN spent.ended_cents >= kept.monthly_budget_cents THEN %(at)s::timestamptz
        END AS exceeded_at
    FROM unnest(%(tenant_id)s::text[], %(user_id)s::text[]) AS wanted (tenant_id, user_id)
    JOIN user_budget_settings AS kept USING (tenant_id, user_id)
    CROSS JOIN LATERAL user_spend(
        kept.tenant_id, kept.user_id, kept.currency, %(month)s::timestamp AT TIME ZONE 'UTC',
        (%(month)s::date + interval '1 month') AT TIME ZONE 'UTC') AS spent
) AS now_spent
WHERE budget.tenant_id = now_spent.tenant_id AND budget.user_id = now_spent.user_id
    AND (budget.month, budget.month_spend_cents, budget.warned_at, budget.exceeded_at)
        IS DISTINCT FROM (%(month)s, now_spent.cents, now_spent.warned_at, now_spent.exceeded_at);

-- name: budgets_of
-- The budgets of these users.
SELECT tenant_id, user_id, version, currency, monthly_budget_cents, warning_threshold, call_cap_cents, auto_cutoff,
    month, month_spend_cents, warned_at, exceeded_at
FROM user_budget_settings
WHERE (tenant_id, user_id) IN (SELECT * FROM unnest(%(tenant_id)s::text[], %(user_id)s::text[]))
ORDER BY tenant_id, user_id;

-- name: changed_budgets
-- Budgets that were changed since a moment, page by page; all of them if it is null.
SELECT tenant_id, user_id, version, currency, monthly_budget_cents, warning_threshold, call_cap_cents, auto_cutoff,
    month, month_spend_cents, warned_at, exceeded_at
FROM user_budget_settings
WHERE (%(since)s::timestamptz IS NULL OR updated_at >= %(since)s) AND (tenant_id, user_id) > (%(tenant_id)s, %(user_id)s)
ORDER BY tenant_id, user_id
LIMIT %(limit)s;

-- name: any_budgets
-- Whether there are budgets at all, and the archive's clock.
SELECT EXISTS (SELECT FROM user_budget_settings), clock_timestamp();

-- name: set_budget
-- Set a user's budget.
INSERT INTO user_budget_settings AS kept (
    tenant_id, user_id, currency, monthly_budget_cents, warning_threshold, call_cap_cents, auto_cutoff)
VALUES (
    %(tenant_id)s, %(user_id)s, %(currency)s, %(monthly_budget_cents)s, %(warning_threshold)s, %(call_cap_cents)s,
    %(auto_cutoff)s)
ON CONFLICT (tenant_id, user_id) DO UPDATE SET
    currency = excluded.currency, monthly_budget_cents = excluded.monthly_budget_cents,
    warning_threshold = excluded.warning_threshold, call_cap_cents = excluded.call_cap_cents,
    auto_cutoff = excluded.auto_cutoff, warned_at = NULL, exceeded_at = NULL;

-- name: remove_budget
-- Take a user's budget away.
DELETE FROM user_budget_settings WHERE tenant_id = %(tenant_id)s AND user_id = %(user_id)s;

-- name: budget_status
-- How budgets stand in this month, added up anew.
SELECT tenant_id, user_id, currency, monthly_budget_cents, warning_threshold, call_cap_cents, auto_cutoff, month,
    month_spend_cents, living_cents, warned_at, exceeded_at
FROM user_budget_status
WHERE (%(user_id)s::text IS NULL OR user_id = %(user_id)s) AND (%(tenant_id)s::text IS NULL OR tenant_id = %(tenant_id)s)
ORDER BY tenant_id, user_id
LIMIT %(limit)s;
