"""Promise 1: a field leaves Redis only after the transaction that holds it has committed."""

from __future__ import annotations

from typing import Any

import pytest

from deployments import CALL_ROW

WRITTEN_NOT_COMMITTED = (CALL_ROW, "COMMIT")


def dumps(deployment: Any, sids: list[str]) -> list[tuple[bytes, int]]:
    """What Redis holds of these calls, to the byte, and their TTLs."""
    return [(deployment.raw.dump(f"session:{sid}"), deployment.raw.ttl(f"session:{sid}")) for sid in sids]


def test_nothing_leaves_redis_before_the_commit_and_a_killed_worker_is_made_good(
    deployment: Any, proxy_to: Any
) -> None:
    sids = [f"CA{number}" for number in range(5)]
    proxy, through = proxy_to(deployment.database_url)
    worker = deployment.worker(DATABASE_URL=through, LEASE_SECONDS=2)
    commit = proxy.hold(*WRITTEN_NOT_COMMITTED)
    for sid in sids:
        deployment.write(sid)
    before = [deployment.raw.dump(f"session:{sid}") for sid in sids]
    deployment.ask(*sids)

    commit.wait()
    assert dumps(deployment, sids) == [(dump, -1) for dump in before]
    assert all(deployment.asked(sid) is not None for sid in sids)
    worker.kill()
    commit.cut()
    assert dumps(deployment, sids) == [(dump, -1) for dump in before]
    assert deployment.value("SELECT count(*) FROM call_sids WHERE state = 'archived'") == 0

    deployment.worker(LEASE_SECONDS=2)
    deployment.until_archived(*sids)
    for sid in sids:
        assert deployment.said(sid) == [f"{sid} says 0", f"{sid} says 1"]
    assert deployment.value("SELECT count(*) FROM call_sessions") == len(sids)


@pytest.mark.parametrize("fate", ["cut", "cut_answer"])
def test_a_connection_lost_in_the_commit_releases_nothing_that_was_not_committed(
    deployment: Any, proxy_to: Any, until: Any, fate: str
) -> None:
    proxy, through = proxy_to(deployment.database_url)
    worker = deployment.worker(DATABASE_URL=through)
    commit = proxy.hold(*WRITTEN_NOT_COMMITTED)
    deployment.write("CA1")
    deployment.ask("CA1")

    commit.wait()
    proxy.cut()
    getattr(commit, fate)()
    worker.wait_for("worker.waiting")
    assert len(deployment.fields("CA1")) == 6
    # Whether it was committed nobody can tell the worker. It was not, and it was:
    committed = {"cut": 0, "cut_answer": 1}[fate]
    until(
        lambda: deployment.value("SELECT count(*) FROM call_sessions") == committed, "the commit did not come to pass"
    )

    proxy.mend()
    deployment.until_archived("CA1")
    assert deployment.said("CA1") == ["CA1 says 0", "CA1 says 1"]
    assert deployment.value("SELECT count(*) FROM call_sessions") == 1
    assert not deployment.redis.hgetall("session-bridge:attempts")
    assert not deployment.redis.hgetall("session-bridge:in-hand")
    worker.stop()


def test_a_commit_that_fails_releases_nothing(deployment: Any, until: Any) -> None:
    deployment.rows(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE EXCEPTION 'no room' USING ERRCODE = 'disk_full'; END $$"
    )
    deployment.rows(
        "CREATE CONSTRAINT TRIGGER at_commit AFTER INSERT ON call_sids DEFERRABLE INITIALLY DEFERRED "
        "FOR EACH ROW EXECUTE FUNCTION refuse()"
    )
    worker = deployment.worker()
    deployment.write("CA1")
    deployment.ask("CA1")
    assert "no room" in worker.wait_for("worker.waiting")["reason"]
    assert len(deployment.fields("CA1")) == 6
    deployment.rows("DROP TRIGGER at_commit ON call_sids")
    deployment.until_archived("CA1")
    worker.stop()
