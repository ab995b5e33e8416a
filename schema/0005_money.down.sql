-- Takes rates, budgets, balances and their history away; what a call cost in all stays in its breakdown.
DROP FUNCTION grant_credits(text, text, numeric, text, text);
DROP TABLE credit_transactions, user_credits;
DROP VIEW user_budget_status;
DROP FUNCTION user_spend(text, text, text, timestamptz, timestamptz);
DROP TABLE user_budget_settings;
DROP FUNCTION note_budget_change();
DROP TABLE provider_rates;
DROP TYPE session_bridge_textrange;
