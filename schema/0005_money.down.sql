-- Takes rates, budgets, balances and their history away; what a call cost in all stays in its breakdown.
DROP FUNCTION grant_credits(text, text, numeric, text, text);
DROP TABLE credit_transactions, user_credits;
DROP VIEW user_budget_status;
DROP FUNCTION user_spend(text, text, text, timestamptz, timestamptz);
DROP TABLE user_budget_settings;
DROP FUNCTION note_budget_change();
ALTER TABLE call_cost_breakdowns DROP COLUMN reported_cents, DROP COLUMN computed_cents, DROP COLUMN computed;
DROP TABLE provider_rates;
DROP TYPE session_bridge_textrange;
