"""PostgreSQL as the control state: who sees what, a server that goes and comes, rows that changed behind our back."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing

import psycopg
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from postgres_server import PostgresServer, database_of
from sqlalchemy import create_engine

from skyriver.adapters.postgres.faults import translate
from skyriver.adapters.postgres.leases import PostgresLeases
from skyriver.adapters.postgres.migrations import REVISIONS
from skyriver.adapters.postgres.opening import parse_address
from skyriver.adapters.postgres.preparing import SCRIPTS, prepare
from skyriver.adapters.postgres.store import PostgresStore
from skyriver.adapters.sql.migrating import configuration
from skyriver.adapters.sql.schema import metadata
from skyriver.core.errors import (
    Conflict,
    Corrupt,
    Internal,
    InvalidInput,
    NotAllowed,
    SkyriverError,
    StaleWrite,
    Unavailable,
)
from skyriver.core.resources import AuditEntry, Delete, Put, Resource

DEADLINE_S = 300
OF_TENANTS = {"tenants": "name", "resources": "tenant", "steps": "tenant", "audit": "tenant"}


def put(store: PostgresStore, fence: int, name: str, tenant: str = "acme") -> Resource:
    entry = AuditEntry(tenant, "me", "jobs:run", "run", name)
    row = Resource(tenant, "job", name, {"text": "marker"})
    (written,) = store.commit([Put(row, 0)], audit=[entry], fence=fence, actor="me", now=1)
    return written


@pytest.fixture
def address(postgres: PostgresServer) -> str:
    return postgres.prepared()


@pytest.fixture
def store(address: str) -> Iterator[PostgresStore]:
    with closing(PostgresStore(address)) as opened:
        yield opened


def administrator(address: str) -> str:
    return address.replace("skyriver@", "postgres@")


class TestTenantsAreKeptApart:
    """By the database itself, whatever SQL is sent."""

    @pytest.fixture
    def session(self, store: PostgresStore, address: str) -> Iterator[psycopg.Connection]:
        """A session of the product's role, over rows of two tenants."""
        fence = store.acquire("me")
        for tenant in ("acme", "beta"):
            put(store, fence, "j", tenant)
        with psycopg.connect(address, autocommit=True) as session:
            session.execute("SET search_path = skyriver")
            yield session

    def as_tenant(self, session: psycopg.Connection, tenant: str) -> None:
        session.execute("SET ROLE skyriver_tenant")
        session.execute("SELECT set_config('skyriver.tenant', %s, false)", [tenant])

    @pytest.mark.parametrize("table", OF_TENANTS)
    def test_a_tenant_sees_its_own_rows_alone(self, session: psycopg.Connection, table: str) -> None:
        for tenant in ("acme", "beta"):
            self.as_tenant(session, tenant)
            found = session.execute(f"SELECT DISTINCT {OF_TENANTS[table]} FROM {table}").fetchall()
            assert found == [(tenant,)]
            other = "beta" if tenant == "acme" else "acme"
            query = f"SELECT count(*) FROM {table} WHERE {OF_TENANTS[table]} = '{other}' OR true"
            own = f"SELECT count(*) FROM {table} WHERE {OF_TENANTS[table]} = '{tenant}'"
            assert session.execute(query).fetchone() == session.execute(own).fetchone()

    @pytest.mark.parametrize("table", OF_TENANTS)
    def test_without_a_tenant_nothing_is_seen(self, session: psycopg.Connection, table: str) -> None:
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            session.execute(f"SELECT * FROM skyriver.{table}")  # the role that logs in has no right by itself
        session.execute("SET ROLE skyriver_tenant")
        assert session.execute(f"SELECT * FROM {table}").fetchall() == []
        self.as_tenant(session, "")
        assert session.execute(f"SELECT * FROM {table}").fetchall() == []

    def test_a_tenant_writes_nothing_of_another(self, session: psycopg.Connection, store: PostgresStore) -> None:
        before = store.rows()
        self.as_tenant(session, "acme")
        assert session.execute("UPDATE resources SET state = 'X' WHERE tenant = 'beta'").rowcount == 0
        assert session.execute("DELETE FROM resources WHERE tenant = 'beta'").rowcount == 0
        columns = ", ".join(column.name for column in metadata.tables["resources"].columns)
        values = columns.replace("tenant", "'beta'", 1).replace("name", "'forged'", 1)
        for forbidden in (
            f"INSERT INTO resources ({columns}) SELECT {values} FROM resources",
            "UPDATE resources SET tenant = 'beta'",
            "INSERT INTO tenants VALUES ('gamma', 1, '', 1, '')",
            "INSERT INTO steps VALUES (99, 'beta', 'job', 'j', 1, '')",
            "INSERT INTO audit SELECT 99, at, 'beta', actor, permission, action, target, details, previous, digest"
            " FROM audit",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                session.execute(forbidden)
        assert store.rows() == before

    def test_nobody_changes_the_trail_or_the_rules(self, session: psycopg.Connection) -> None:
        for role in ("skyriver_tenant", "skyriver_control"):
            session.execute(f"SET ROLE {role}")
            for forbidden in (
                "UPDATE audit SET actor = 'nobody'",
                "DELETE FROM audit",
                "TRUNCATE audit",
                "ALTER TABLE resources DISABLE ROW LEVEL SECURITY",
                "DROP POLICY of_the_tenant ON resources",
                "UPDATE alembic_version SET version_num = '0'",
                "SELECT * FROM leases",
                "SET ROLE skyriver_owner",
                "SET ROLE postgres",
                "CREATE TABLE letters (body text)",
            ):
                with pytest.raises(psycopg.errors.InsufficientPrivilege):
                    session.execute(forbidden)
        session.execute("SET ROLE skyriver_leases")
        for table in metadata.tables:
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                session.execute(f"SELECT * FROM {table}")

    def test_every_table_with_a_tenant_is_closed_also_to_its_owner(
        self, session: psycopg.Connection, postgres: PostgresServer, address: str
    ) -> None:
        of_tenants = {name for name, table in metadata.tables.items() if "tenant" in table.c} | {"tenants"}
        assert of_tenants == set(OF_TENANTS)
        query = "SELECT relname FROM pg_class WHERE relrowsecurity AND relforcerowsecurity"
        assert {name for (name,) in session.execute(query)} == of_tenants
        seen = postgres.sql("SET ROLE skyriver_owner; SELECT count(*) FROM skyriver.resources", database_of(address))
        assert seen == "0"

    def test_what_the_product_reads_for_a_tenant_is_read_as_that_tenant(
        self, session: psycopg.Connection, postgres: PostgresServer, store: PostgresStore, address: str
    ) -> None:
        # The rules hidden for a moment: were the product to read as somebody else, it would still see the rows.
        postgres.sql("DROP POLICY of_the_tenant ON skyriver.resources", database_of(address))
        assert store.rows("acme") == []
        assert len(store.rows()) == 2


def test_a_role_that_could_go_around_the_rules_is_refused(postgres: PostgresServer, address: str) -> None:
    with pytest.raises(NotAllowed) as caught:
        PostgresStore(administrator(address))
    assert caught.value.code == "STORE_UNSAFE_ROLE"
    database = database_of(address)
    for number, right in enumerate(("BYPASSRLS", "IN ROLE skyriver_owner")):
        role = f"unsafe{number}"
        postgres.sql(f"CREATE ROLE {role} LOGIN {right}")
        postgres.sql(f"GRANT skyriver_control TO {role}")
        with pytest.raises(NotAllowed):
            PostgresStore(postgres.address(database, role))


class TestOpening:
    def test_a_database_that_nobody_prepared(self, postgres: PostgresServer, address: str) -> None:
        with pytest.raises(Conflict) as caught:
            PostgresStore(postgres.address(postgres.new_database(), "skyriver"))
        assert caught.value.code == "STORE_UNPREPARED"
        assert "skyriver.wiring.database" in caught.value.next_action

    def test_a_newer_schema_is_refused_and_not_touched(self, postgres: PostgresServer, address: str) -> None:
        change = "UPDATE skyriver.alembic_version SET version_num = '9999'"
        postgres.sql(change, database_of(address))
        for call in (lambda: PostgresStore(address), lambda: prepare(administrator(address), address)):
            with pytest.raises(Conflict, match="'9999'") as caught:
                call()
            assert caught.value.code == "NEWER_STORE"

    def test_an_older_schema_is_to_be_prepared(self, postgres: PostgresServer, address: str) -> None:
        postgres.sql("DELETE FROM skyriver.alembic_version", database_of(address))
        with pytest.raises(Conflict) as caught:
            PostgresStore(address)
        assert caught.value.code == "STORE_UNPREPARED"

    def test_addresses_that_lead_nowhere(self, postgres: PostgresServer, address: str) -> None:
        for wrong in ("", "sqlite:///x", "postgresql://h/d", "postgresql://user@h", "mysql://u@h/d"):
            with pytest.raises(InvalidInput) as caught:
                PostgresStore(wrong)
            assert caught.value.code == "BAD_STORE"
        for wrong, code in {
            address.replace("host=", "host=/nowhere"): "STORE_AWAY",
            "postgresql://skyriver:secret@127.0.0.1:1/db": "STORE_AWAY",
            postgres.address("nowhere", "skyriver"): "STORE_MISSING",
            postgres.address(database_of(address), "nobody"): "STORE_DENIED",
        }.items():
            with pytest.raises(Unavailable) as away:
                PostgresStore(wrong)
            assert away.value.code == code
            assert away.value.next_action
            assert "secret" not in str(away.value)

    def test_preparing_again_changes_nothing_and_two_at_once_do_it_once(self, postgres: PostgresServer) -> None:
        database = postgres.new_database()
        admin, product = postgres.address(database), postgres.address(database, "skyriver")
        errors: list[BaseException] = []

        def run() -> None:
            try:
                prepare(admin, product)
            except BaseException as error:
                errors.append(error)

        threads = [threading.Thread(target=run) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(DEADLINE_S)
        assert not errors
        with closing(PostgresStore(product)) as store:
            written = put(store, store.acquire("me"), "kept")
            prepare(admin, product)
            assert store.rows() == [written]

    def test_the_login_of_another_cloud_on_the_same_server_does_not_get_in(self, postgres: PostgresServer) -> None:
        one, two = postgres.new_database(), postgres.new_database()
        prepare(postgres.address(one), postgres.address(one, "cloud_one"))
        prepare(postgres.address(two), postgres.address(two, "cloud_two"))
        PostgresStore(postgres.address(one, "cloud_one")).close()
        with pytest.raises(Unavailable) as refused:
            PostgresStore(postgres.address(one, "cloud_two"))
        assert refused.value.code in ("STORE_DENIED", "STORE_MISSING")

    def test_a_password_is_set_and_not_logged(self, postgres: PostgresServer) -> None:
        database = postgres.new_database()
        prepare(postgres.address(database), f"postgresql://guarded:pass%20word@/{database}?host={postgres.folder}")
        assert postgres.sql("SELECT rolpassword FROM pg_authid WHERE rolname = 'guarded'").startswith("SCRAM-SHA-256$")
        assert "pass word" not in (postgres.folder / "log").read_text()

    def test_the_tables_are_those_that_the_migrations_make(self, address: str) -> None:
        engine = create_engine(parse_address(administrator(address)))
        with engine.connect() as connection:
            connection.exec_driver_sql("SET search_path = skyriver")
            found = compare_metadata(MigrationContext.configure(connection), metadata)
        engine.dispose()
        assert [(what, table.name) for what, table, *_ in found if what != "remove_index"] == [
            ("remove_table", "leases"),  # of PostgreSQL alone
        ]

    def test_the_revisions_are_those_of_the_scripts(self) -> None:
        scripts = ScriptDirectory.from_config(configuration(SCRIPTS))
        assert tuple(s.revision for s in reversed(list(scripts.walk_revisions()))) == REVISIONS


def test_the_command_prepares_a_database_and_says_what_it_lacks(postgres: PostgresServer) -> None:
    database = postgres.new_database()
    administrator, product = postgres.address(database), postgres.address(database, "skyriver")

    def run(**environment: str) -> subprocess.CompletedProcess[str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("SKYRIVER_")}
        command = [sys.executable, "-m", "skyriver.wiring.database"]
        return subprocess.run(
            command, env=kept | environment, capture_output=True, text=True, timeout=DEADLINE_S, check=False
        )

    lacking = run(SKYRIVER_STORE=product)
    assert lacking.returncode == 1
    assert lacking.stderr.startswith("BAD_STORE: SKYRIVER_STORE and SKYRIVER_STORE_ADMIN")
    done = run(SKYRIVER_STORE=product, SKYRIVER_STORE_ADMIN=administrator)
    assert (done.returncode, done.stdout, done.stderr) == (0, "The database is prepared: revision 0001.\n", "")
    PostgresStore(product).close()


class TestAServerThatGoesAndComes:
    def test_it_is_away_and_used_again_when_it_is_back(
        self, postgres: PostgresServer, store: PostgresStore, address: str
    ) -> None:
        fence = store.acquire("me")
        put(store, fence, "before")
        with closing(PostgresLeases(address)) as leases:
            lease = leases.acquire("work", "me", ttl_us=60_000_000)
            for end in (postgres.stop, postgres.kill):
                end()
                for call in (store.rows, lambda: put(store, fence, "away"), lambda: leases.renew(lease)):
                    with pytest.raises(Unavailable) as caught:
                        call()
                    assert caught.value.code == "STORE_AWAY"
                    assert "tried again by itself" in caught.value.next_action
                assert leases.holds(lease)
                postgres.start()
                # Each at the first call: connections that had ended with the server are not handed out.
                rows = store.rows()
                put(store, fence, f"after-{len(rows)}")
                leases.renew(lease)
        assert [row.name for row in store.rows()] == ["after-1", "after-2", "before"]
        assert store.verify_audit().seq == 3

    def test_acknowledged_commits_survive_a_kill_of_the_server(self, postgres: PostgresServer, address: str) -> None:
        told = 0
        for lines in (1, 30, 60):
            told = acknowledged_before_kill(postgres, address, lines)
            with closing(PostgresStore(address)) as store:
                rows = {row.name: row for row in store.rows()}
                written = rows.pop("count").spec["n"]
                assert written in (told, told + 1), "what was acknowledged is there; at most one more was not yet told"
                assert [row.spec["n"] for row in rows.values()] == list(range(1, written + 1))
                assert store.verify_audit().seq == written
        assert told > 90

    def test_a_stopped_process_in_mid_commit_holds_nobody_up(self, store: PostgresStore, address: str) -> None:
        child = subprocess.Popen([sys.executable, "-c", STOPS_ITSELF, address], stdout=subprocess.PIPE, text=True)
        try:
            os.waitpid(child.pid, os.WUNTRACED)
            start = time.monotonic()
            fence = store.acquire("next")
            assert time.monotonic() - start < 10
            put(store, fence, "mine")
            child.send_signal(signal.SIGCONT)
            out, _ = child.communicate(timeout=DEADLINE_S)
        finally:
            child.kill()
        assert out.split() == ["STORE_AWAY", "FENCED"]
        assert [row.name for row in store.rows()] == ["mine"]

    def test_another_that_writes_is_waited_for_but_not_for_ever(self, store: PostgresStore, address: str) -> None:
        fence = store.acquire("me")
        with closing(PostgresStore(address, patience_us=100_000)) as hasty, psycopg.connect(address) as other:
            other.execute("SET ROLE skyriver_control")
            other.execute("SELECT * FROM skyriver.counters FOR UPDATE")
            with pytest.raises(Unavailable) as caught:
                put(hasty, fence, "a")
            assert caught.value.code == "STORE_LOCKED"
            assert hasty.rows() == []  # readers do not wait
            writer = threading.Thread(target=put, args=(store, fence, "b"))
            writer.start()
            other.rollback()
            writer.join(DEADLINE_S)
        assert [row.name for row in store.rows()] == ["b"]

    def test_two_planes_never_commit_side_by_side(self, store: PostgresStore, address: str) -> None:
        """A commit that began under an old fence ends before the next plane's fence, or not at all."""
        with closing(PostgresStore(address)) as other:
            for _ in range(20):
                old = store.acquire("old")
                ended = threading.Event()

                def write(fence: int = old, ended: threading.Event = ended) -> None:
                    try:
                        for number in range(1000):
                            put(store, fence, f"{fence}-{number:03}")
                    except StaleWrite as error:
                        if error.code == "FENCED":
                            ended.set()

                thread = threading.Thread(target=write)
                thread.start()
                new = other.acquire("new")
                revision = other.revision()
                thread.join(DEADLINE_S)
                assert ended.is_set()
                assert other.revision() == revision, "nothing was committed after the new fence was given"
                put(other, new, f"{new}-first")


COMMITTING = """
import sys
from dataclasses import replace
from skyriver.adapters.postgres.store import PostgresStore
from skyriver.core.errors import Unavailable
from skyriver.core.resources import AuditEntry, Put, Resource

store = PostgresStore(sys.argv[1])
fence = store.acquire("child")
rows = {row.name: row for row in store.rows()}
start = rows["count"].spec["n"] if rows else 0
try:
    for n in range(start + 1, 1_000_000):
        old = rows.get("count", Resource("t", "job", "count"))
        new = Resource("t", "job", f"j{n:06}", {"n": n, "text": "x" * (n * 37 % 5000)})
        changes = [Put(replace(old, spec={"n": n}), old.revision), Put(new, 0)]
        entry = AuditEntry("t", "child", "jobs:run", "count", f"{n}")
        for row in store.commit(changes, audit=[entry], fence=fence, actor="child", now=n):
            rows[row.name] = row
        print(n, flush=True)
except Unavailable as error:
    print(error.code, flush=True)
"""

STOPS_ITSELF = """
import os, signal, sys
from sqlalchemy import Engine, event
from skyriver.adapters.postgres.store import PostgresStore
from skyriver.core.errors import SkyriverError
from skyriver.core.resources import Put, Resource

store = PostgresStore(sys.argv[1])
fence = store.acquire("child")

@event.listens_for(Engine, "after_cursor_execute")
def executed(connection, cursor, statement, *rest):
    if "INSERT INTO resources" in statement and not stopped:
        stopped.append(True)
        os.kill(os.getpid(), signal.SIGSTOP)

stopped = []
for name in ("a", "b"):
    try:
        store.commit([Put(Resource("t", "job", name), 0)], audit=(), fence=fence, actor="child", now=1)
        print("written", flush=True)
    except SkyriverError as error:
        print(error.code, flush=True)
"""


def acknowledged_before_kill(postgres: PostgresServer, address: str, lines: int) -> int:
    """The last number that a child said it had committed when the server was killed, after `lines` of them."""
    child = subprocess.Popen([sys.executable, "-c", COMMITTING, address], stdout=subprocess.PIPE, text=True)
    watch = threading.Timer(DEADLINE_S, child.kill)
    watch.start()
    with child:
        assert child.stdout is not None
        said = [child.stdout.readline() for _ in range(lines)]
        postgres.kill()
        said += child.stdout.readlines()
    watch.cancel()
    assert child.returncode == 0
    assert said[-1].strip() in ("STORE_AWAY", "STORE_UNSURE")
    postgres.start()
    return int(said[-2])


class TestDamage:
    @pytest.mark.parametrize(
        "change",
        [
            "DELETE FROM resources WHERE name = 'j1'",
            "UPDATE resources SET status = '{\"n\":2}' WHERE name = 'j1'",
            "UPDATE resources SET tenant = 'beta' WHERE name = 'j0'",
            "DELETE FROM counters WHERE name = 'revision'",
            "UPDATE counters SET value = value + 1 WHERE name = 'revision'",
            "UPDATE counters SET value = value + 1 WHERE name = 'logged'",
            "UPDATE audit SET actor = 'bob' WHERE seq = 2",
            "DELETE FROM audit WHERE seq = 2",
            "DELETE FROM audit WHERE seq = 4",
            "DELETE FROM steps WHERE revision = 2",
            "DELETE FROM steps WHERE revision = 5",
            "UPDATE steps SET deleted = 0 WHERE revision = 5",
        ],
    )
    def test_changes_by_hand_are_found(
        self, postgres: PostgresServer, store: PostgresStore, address: str, change: str
    ) -> None:
        fence = store.acquire("me")
        put(store, fence, "in-beta", "beta")
        rows = [put(store, fence, f"j{number}") for number in range(3)]
        store.commit([Delete("acme", "job", "j2", rows[2].revision)], audit=(), fence=fence, actor="me", now=1)
        postgres.sql(f"SET search_path = skyriver; {change}", database_of(address))
        found = []
        for read in (
            store.rows,
            lambda: store.audit("acme"),
            store.verify_audit,
            store.revision,
            lambda: store.since(0),
        ):
            try:
                read()
            except Corrupt as error:
                found.append(error.code)
        assert found

    def test_a_damaged_page_is_said_to_be_one(self, postgres: PostgresServer, address: str) -> None:
        database = database_of(address)
        with closing(PostgresStore(address)) as store:
            put(store, store.acquire("me"), "j")
        postgres.sql("CHECKPOINT")
        file = postgres.data / postgres.sql("SELECT pg_relation_filepath('skyriver.resources')", database)
        postgres.stop()
        data = file.read_bytes()
        file.write_bytes(data.replace(b"marker", b"narker"))
        postgres.start()
        with closing(PostgresStore(address)) as store, pytest.raises(Corrupt) as caught:
            store.rows()
        assert caught.value.code == "STORE_CORRUPT"


@pytest.mark.parametrize(
    ("state", "kind", "code"),
    [
        ("53100", Unavailable, "DISK_FULL"),
        ("53300", Unavailable, "STORE_BUSY"),
        ("25006", Unavailable, "STORE_READ_ONLY"),
        ("40P01", Unavailable, "STORE_LOCKED"),
        ("57P03", Unavailable, "STORE_AWAY"),
        ("58030", Unavailable, "STORE_DISK_ERROR"),
        ("54000", InvalidInput, "TOO_LARGE"),
        ("42601", Internal, "INTERNAL"),
    ],
)
def test_what_states_mean(state: str, kind: type[SkyriverError], code: str) -> None:
    error = translate(psycopg.errors.lookup(state)("words of the server"), "postgresql://h/d")
    assert isinstance(error, kind)
    assert error.code == code
