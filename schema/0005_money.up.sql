-- Money: what services cost and since when, what users have and owe, and what they may spend.
--
-- Amounts are cents of a currency, numeric(24, 10), never binary fractions. An empty tenant_id is no tenant.

-- A range of text, so that "the same text" can stand in an exclusion constraint without an extension.
CREATE TYPE session_bridge_textrange AS RANGE (subtype = text, collation = "C");

-- What a unit of a service costs. An empty provider or model is any; for telephony the model is the direction. No two
-- rates for the same thing hold at the same moment. The rate that counts is the one at a call's start.
CREATE TABLE provider_rates (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    service     text NOT NULL CHECK (service <> '' AND length(service) <= 100),
    provider    text NOT NULL DEFAULT '' CHECK (length(provider) <= 100),
    model       text NOT NULL DEFAULT '' CHECK (length(model) <= 100),
    unit        text NOT NULL CHECK (unit <> '' AND length(unit) <= 100),
    price_cents numeric(24, 10) NOT NULL CHECK (price_cents >= 0),
    currency    text NOT NULL DEFAULT 'USD' CHECK (currency <> '' AND length(currency) <= 64),
    step        numeric(24, 10) CHECK (step > 0),
    valid_from  timestamptz NOT NULL,
    valid_to    timestamptz,
    CHECK (valid_to > valid_from),
    CONSTRAINT provider_rates_no_overlap EXCLUDE USING gist (
        session_bridge_textrange(service, service, '[]') WITH &&,
        session_bridge_textrange(provider, provider, '[]') WITH &&,
        session_bridge_textrange(model, model, '[]') WITH &&,
        session_bridge_textrange(unit, unit, '[]') WITH &&,
        tstzrange(valid_from, valid_to) WITH &&
    )
);
COMMENT ON COLUMN provider_rates.step IS 'usage is billed in whole steps of so many units: 1 bills each begun minute';

INSERT INTO provider_rates (service, provider, model, unit, price_cents, valid_from) VALUES
    ('telephony', 'twilio', 'outbound', 'minute', 1.30, '2025-01-01 00:00:00+00'),
    ('stt', 'deepgram', '', 'minute', 0.43, '2025-01-01 00:00:00+00'),
    ('llm', 'cerebras', '', '1m_tokens', 10, '2025-01-01 00:00:00+00'),
    ('tts', 'elevenlabs', '', '1k_characters', 15, '2025-01-01 00:00:00+00');

-- Beside what holds: what was reported, what the rates say of everything, and how each of the latter came about.
ALTER TABLE call_cost_breakdowns
    ADD COLUMN reported_cents numeric(24, 10),
    ADD COLUMN computed_cents numeric(24, 10),
    ADD COLUMN computed       jsonb;

-- What a user may spend in a month, where the warning is, and what one call may cost. The worker adds up the month.
CREATE TABLE user_budget_settings (
    tenant_id            text NOT NULL DEFAULT '',
    user_id              text NOT NULL CHECK (user_id <> ''),
    currency             text NOT NULL DEFAULT 'USD',
    monthly_budget_cents numeric(24, 10) CHECK (monthly_budget_cents >= 0),
    warning_threshold    numeric(5, 4) NOT NULL DEFAULT 0.8 CHECK (warning_threshold BETWEEN 0 AND 1),
    call_cap_cents       numeric(24, 10) CHECK (call_cap_cents >= 0),
    auto_cutoff          boolean NOT NULL DEFAULT false,
    month                date,
    month_spend_cents    numeric(24, 10) NOT NULL DEFAULT 0,
    warned_at            timestamptz,
    exceeded_at          timestamptz,
    version              bigint NOT NULL DEFAULT 1,
    updated_at           timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (tenant_id, user_id)
);
CREATE INDEX user_budget_settings_updated_at ON user_budget_settings (updated_at);
COMMENT ON COLUMN user_budget_settings.month_spend_cents IS 'what the calls of `month` cost that have ended';
COMMENT ON COLUMN user_budget_settings.warned_at IS 'when the spend of `month` first reached the warning threshold';

-- A change by whoever it is gets a version: what is told to recorders never goes back to an older one.
CREATE FUNCTION note_budget_change() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
BEGIN
    NEW.version := OLD.version + 1;
    NEW.updated_at := clock_timestamp();
    RETURN NEW;
END $$;
CREATE TRIGGER note_budget_change BEFORE UPDATE ON user_budget_settings
    FOR EACH ROW EXECUTE FUNCTION note_budget_change();

-- What the calls of a user have cost from one moment to another, in a currency: those that have ended, and those that
-- live, as of their last checkpoint.
CREATE FUNCTION user_spend(
    tenant text, whose text, in_currency text, since timestamptz, before timestamptz,
    OUT ended_cents numeric, OUT living_cents numeric)
    LANGUAGE sql STABLE PARALLEL SAFE
    BEGIN ATOMIC
        SELECT
            coalesce(sum(cost.total_cost_cents) FILTER (WHERE NOT call.lives), 0),
            coalesce(sum(cost.total_cost_cents) FILTER (WHERE call.lives), 0)
        FROM (
            SELECT id, status IN ('initiated', 'ringing', 'in_progress') AS lives FROM call_sessions
            WHERE user_id = whose AND coalesce(tenant_id, '') = tenant
                AND id >= session_id_floor(since) AND id < session_id_floor(before)
        ) AS call
        JOIN call_cost_breakdowns AS cost ON cost.session_id = call.id AND cost.currency = in_currency
        WHERE cost.session_id >= session_id_floor(since) AND cost.session_id < session_id_floor(before);
    END;

-- Every budget and how it stands in the present month.
CREATE VIEW user_budget_status WITH (security_invoker) AS
SELECT
    budget.tenant_id, budget.user_id, budget.currency, budget.monthly_budget_cents, budget.warning_threshold,
    budget.call_cap_cents, budget.auto_cutoff, present.month, spent.ended_cents AS month_spend_cents,
    spent.living_cents AS living_cents,
    CASE WHEN budget.month = present.month THEN budget.warned_at END AS warned_at,
    CASE WHEN budget.month = present.month THEN budget.exceeded_at END AS exceeded_at
FROM user_budget_settings AS budget
CROSS JOIN (SELECT date_trunc('month', now() AT TIME ZONE 'UTC')::date AS month) AS present
CROSS JOIN LATERAL user_spend(
    budget.tenant_id, budget.user_id, budget.currency, present.month::timestamp AT TIME ZONE 'UTC',
    (present.month + interval '1 month') AT TIME ZONE 'UTC') AS spent;

-- What a user has. It is changed together with an entry in credit_transactions, by the bridge or by grant_credits().
CREATE TABLE user_credits (
    tenant_id     text NOT NULL DEFAULT '',
    user_id       text NOT NULL CHECK (user_id <> ''),
    currency      text NOT NULL DEFAULT 'USD',
    balance_cents numeric(24, 10) NOT NULL DEFAULT 0,
    updated_at    timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, user_id, currency)
);

-- Every change of a balance. A call has one deduction for ever; what changes about it later is an adjustment.
CREATE TABLE credit_transactions (
    id              bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant_id       text NOT NULL,
    user_id         text NOT NULL,
    currency        text NOT NULL,
    kind            text NOT NULL CHECK (kind IN ('grant', 'deduction', 'adjustment')),
    session_id      uuid,
    amount_cents    numeric(24, 10) NOT NULL,
    balance_before  numeric(24, 10) NOT NULL,
    balance_after   numeric(24, 10) NOT NULL,
    charge_cents    numeric(24, 10),
    shortfall_cents numeric(24, 10) CHECK (shortfall_cents >= 0),
    note            text,
    created_at      timestamptz NOT NULL DEFAULT now(),
    CHECK (balance_after = balance_before + amount_cents),
    CHECK ((kind = 'grant') = (session_id IS NULL)),
    CHECK ((kind = 'grant') = (charge_cents IS NULL) AND (kind = 'grant') = (shortfall_cents IS NULL))
);
COMMENT ON COLUMN credit_transactions.charge_cents IS 'what the call comes to in all, as of this entry';
COMMENT ON COLUMN credit_transactions.shortfall_cents IS 'what of that the policy did not let be taken';
CREATE UNIQUE INDEX credit_transactions_one_deduction ON credit_transactions (session_id) WHERE kind = 'deduction';
CREATE INDEX credit_transactions_session_id ON credit_transactions (session_id, id) WHERE session_id IS NOT NULL;
CREATE INDEX credit_transactions_user_id ON credit_transactions (tenant_id, user_id, currency, id);

-- Give a user credit (or, with a negative amount, take some back); the balance it leaves.
CREATE FUNCTION grant_credits(
    tenant text, whose text, amount numeric, in_currency text DEFAULT 'USD', note text DEFAULT NULL) RETURNS numeric
    LANGUAGE plpgsql SET search_path FROM CURRENT
    AS $$
DECLARE
    after_it numeric;
BEGIN
    INSERT INTO user_credits AS kept (tenant_id, user_id, currency, balance_cents)
    VALUES (tenant, whose, in_currency, round(amount, 10))
    ON CONFLICT (tenant_id, user_id, currency)
        DO UPDATE SET balance_cents = kept.balance_cents + excluded.balance_cents, updated_at = now()
    RETURNING balance_cents INTO after_it;
    INSERT INTO credit_transactions (
        tenant_id, user_id, currency, kind, amount_cents, balance_before, balance_after, note)
    VALUES (
        tenant, whose, in_currency, 'grant', round(amount, 10), after_it - round(amount, 10), after_it,
        grant_credits.note);
    RETURN after_it;
END $$;
