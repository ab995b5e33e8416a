-- name: create_roles
-- Make the archive's roles; what could not be done, or null.
SELECT create_archive_roles(%(prefix)s);

-- name: give_archive
-- Make a role the owner of the archive.
SELECT give_archive_to(%(owner)s);

-- name: archive_roles
-- The roles of this archive, and what they are.
SELECT kind, role_name, rolname IS NOT NULL, coalesce(rolbypassrls, false)
FROM session_bridge_roles LEFT JOIN pg_roles ON rolname = role_name ORDER BY kind;

-- name: archive_owner
-- Whose the archive is.
SELECT pg_get_userbyid(relowner)::text FROM pg_class WHERE oid = 'call_sessions'::regclass;

-- name: protect_archive
-- Close what is new, and grant anew.
SELECT protect_archive();

-- name: exposures
-- What stands open that should not.
SELECT what, problem FROM archive_exposures();

-- name: let_read
-- Let a role read.
SELECT let_read(%(reader)s, %(sees)s, %(tenant)s, %(whose)s, %(tenant_from)s, %(user_from)s);

-- name: stop_reading
-- Take that back.
SELECT stop_reading(%(reader)s);

-- name: readers
-- Who reads what.
SELECT role_name, sees, tenant_id, user_id, tenant_from, user_from, rolname IS NOT NULL
FROM session_bridge_readers LEFT JOIN pg_roles ON rolname = role_name ORDER BY role_name;
