-- Tombstones stay in the book, as retired calls under names that no call SID has.
DO $$
DECLARE
    hiding record;
BEGIN
    FOR hiding IN SELECT * FROM call_tables() WHERE by_month AND key_type = 'uuid' LOOP
        EXECUTE format('DROP VIEW IF EXISTS %I', 'visible_' || hiding.table_name);
    END LOOP;
END $$;
DROP FUNCTION call_is_deleted(uuid);
DROP FUNCTION late_monthly_partitions();
DROP FUNCTION cleanup_old_partitions(integer);
DROP FUNCTION drop_monthly_partition(name, date);
DROP FUNCTION forget_calls(date, integer);
DROP FUNCTION entomb(uuid[], text);
DROP FUNCTION retire_calls(date, uuid, integer);
DROP FUNCTION month_ceiling(date);
DROP FUNCTION month_floor(date);
DROP FUNCTION months_to_retire(integer);
DROP FUNCTION retention_cutoff(integer);
DROP FUNCTION call_tables();
DROP TABLE erasure_receipts;
DROP TABLE retired_months;
DROP TABLE session_bridge_call_tables;
DROP TABLE deleted_calls;
DROP INDEX call_sids_by_session;
DROP FUNCTION tombstone_of(uuid, text);
