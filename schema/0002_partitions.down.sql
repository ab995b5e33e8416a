-- Takes every partition away, with the rows in it: without partitions the tables of 0001 can hold none.
DO $$
DECLARE
    partition regclass;
BEGIN
    FOR partition IN
        SELECT inhrelid
        FROM session_bridge_partitioned_tables AS ours
        JOIN pg_inherits ON inhparent = to_regclass(quote_ident(ours.table_name))
    LOOP
        EXECUTE format('DROP TABLE %s', partition);
    END LOOP;
END $$;
DROP FUNCTION create_monthly_partitions(integer, integer);
DROP FUNCTION create_monthly_partition(name, date);
DROP FUNCTION missing_monthly_partitions(integer, integer);
DROP FUNCTION partition_by_month(name);
DROP TABLE session_bridge_partitioned_tables;
