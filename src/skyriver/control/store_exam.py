"""The exam of `Store`: runs on every implementation, the twin in memory and one of your own too."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import replace
from functools import partial
from typing import Any, Protocol

from skyriver.control.store import Store
from skyriver.core.errors import Corrupt, InvalidInput, NotFound, SkyriverError, StaleWrite
from skyriver.core.exam import must, must_raise
from skyriver.core.resources import AuditEntry, Change, Delete, Key, Put, Resource
from skyriver.trust.audit import EMPTY, AuditHead, VerifiableAudit

Make = Callable[[], Store]

_DEADLINE_S = 60.0


def check_store(make: Make) -> None:
    """Raises AssertionError naming the law that does not hold. `make` gives a new, empty store each time."""
    for check in STORE_CHECKS:
        check(make)


def _commit(store: Store, fence: int, *changes: Change, audit: tuple[AuditEntry, ...] = (), now: int = 1000) -> Any:
    return store.commit(changes, audit=audit, fence=fence, actor="exam", now=now)


def _put(name: str, expected: int = 0, *, tenant: str = "acme", kind: str = "job", **fields: Any) -> Put:
    return Put(Resource(tenant, kind, name, **fields), expected)


def _entry(target: str, tenant: str = "acme", **details: Any) -> AuditEntry:
    return AuditEntry(tenant, "ann", "jobs:run", "job.run", target, details)


def _stays(store: Store, call: Callable[[], object], kind: type[SkyriverError], law: str) -> None:
    """`call` raises, and not a bit of the store is another one afterwards."""
    before = (store.rows(), store.revision(), store.audit("acme"))
    must_raise(kind, call, law)
    must((store.rows(), store.revision(), store.audit("acme")) == before, f"{law}: nothing is written")


def a_new_store_is_empty(make: Make) -> None:
    with closing(make()) as store:
        must(store.rows() == [], "a new store has no rows")
        must(store.audit("acme") == [], "a new store has no audit rows")
        must_raise(NotFound, lambda: store.get("acme", "job", "a"), "get of what is not there")


def rows_come_back_as_written(make: Make) -> None:
    with closing(make()) as store:
        fence = store.acquire("exam")
        spec = {"a": [1, 2.5, None, True, {"b": "é\U0001f30a"}], "big": 2**53 + 1, "tiny": 5e-324, "none": {}, "": []}
        given = Resource(
            "acme",
            "job",
            "a",
            spec,
            {"n": 0.1},
            "RUNNING",
            "WHY",
            "It runs.\nSlowly 'and' \"so\".",
            "Wait.",
            7,
            "app/risk",
            3,
        )
        long = _put("long", spec={"text": "x" * 2_000_000})
        written = _commit(store, fence, Put(given, 0), long, now=1234)
        found = store.get("acme", "job", "a")
        must(written[0] == found, "commit returns the rows as get gives them")
        expected = replace(
            given,
            revision=found.revision,
            generation=1,
            created_at=1234,
            created_by="exam",
            updated_at=1234,
            updated_by="exam",
        )
        must(found == expected, "a row comes back as it was written")
        must(store.get("acme", "job", "long").spec == long.resource.spec, "long documents are kept")
        must([row.name for row in written] == ["a", "long"], "commit returns the rows in the order of the Puts")


def the_store_sets_what_is_its_own(make: Make) -> None:
    with closing(make()) as store:
        fence = store.acquire("exam")
        forged: dict[str, Any] = {
            "revision": 77,
            "generation": 9,
            "created_at": 1,
            "created_by": "x",
            "updated_at": 2,
            "updated_by": "x",
        }
        (first,) = _commit(store, fence, _put("a", spec={"n": 1}, **forged), now=10)
        must(first.generation == 1, "generation begins with 1")
        must((first.created_at, first.created_by) == (10, "exam"), "the store sets created_*")
        must((first.updated_at, first.updated_by) == (10, "exam"), "the store sets updated_*")
        must(first.revision == store.revision(), "the row has the newest revision")
        same = _put("a", first.revision, spec={"n": 1}, status={"seen": 1}, **forged)
        (second,) = store.commit([same], audit=(), fence=fence, actor="other", now=20)
        must(second.revision > first.revision, "revision grows with every write")
        must(second.generation == 1, "generation stays while spec stays")
        must((second.created_at, second.created_by) == (10, "exam"), "created_* stay")
        must((second.updated_at, second.updated_by) == (20, "other"), "updated_* are of the last write")
        (third,) = _commit(store, fence, _put("a", second.revision, spec={"n": 2}))
        must(third.generation == 2, "generation grows by one when spec changes")
        must(third.status == {}, "a row is written whole")


def a_write_needs_the_expected_revision(make: Make) -> None:
    with closing(make()) as store:
        fence = store.acquire("exam")
        (first,) = _commit(store, fence, _put("a"))
        (second,) = _commit(store, fence, _put("a", first.revision))
        wrong: dict[str, Change] = {
            "0, and the row exists": _put("a", 0),
            "an old one": _put("a", first.revision),
            "one that never was": _put("a", second.revision + 1),
            "of a row that is not there": _put("b", second.revision),
            "an old one, deleting": Delete("acme", "job", "a", first.revision),
            "0, deleting": Delete("acme", "job", "a", 0),
            "of a row that is not there, deleting": Delete("acme", "job", "b", second.revision),
        }
        for what, change in wrong.items():
            _stays(store, partial(_commit, store, fence, change), StaleWrite, f"expected is {what}")
        _commit(store, fence, Delete("acme", "job", "a", second.revision))
        must_raise(NotFound, lambda: store.get("acme", "job", "a"), "what was deleted is gone")
        _stays(
            store, lambda: _commit(store, fence, _put("a", second.revision)), StaleWrite, "expected is of a deleted row"
        )


def a_commit_is_whole_or_nothing(make: Make) -> None:
    with closing(make()) as store:
        fence = store.acquire("exam")
        (row,) = _commit(store, fence, _put("kept", spec={"n": 1}), audit=(_entry("kept"),))
        changes = (
            _put("new"),
            _put("kept", row.revision, spec={"n": 2}),
            Delete("acme", "job", "absent", 5),
        )
        _stays(
            store,
            lambda: _commit(store, fence, *changes, audit=(_entry("new"), _entry("kept"))),
            StaleWrite,
            "one stale change of many",
        )
        cannot: list[Mapping[str, Any]] = [{"x": float("nan")}, {"x": float("inf")}, {"x": object()}, {"x": b"bytes"}]
        for document in cannot:
            refused = (_put("new"), _put("bad", spec=document))
            _stays(
                store,
                partial(_commit, store, fence, *refused, audit=(_entry("new"),)),
                InvalidInput,
                "a spec that is not JSON",
            )
        refused = (_put("new"), _put("bad", message="nothing\0"))
        _stays(store, lambda: _commit(store, fence, *refused), InvalidInput, "text with the character 0")
        refused_entry = _entry("nothing\0")
        _stays(store, lambda: _commit(store, fence, audit=(refused_entry,)), InvalidInput, "such an audit entry")
        (kept,) = _commit(store, fence, _put("zero", spec={"text": "in a document\0"}))
        must(store.get("acme", "job", "zero").spec == kept.spec, "documents hold any character")
        _stays(
            store,
            lambda: _commit(store, fence, _put("new"), audit=(_entry("good"), _entry("bad", x=object()))),
            InvalidInput,
            "an audit entry that cannot be written",
        )


def changes_are_made_in_order(make: Make) -> None:
    with closing(make()) as store:
        fence = store.acquire("exam")
        (old,) = _commit(store, fence, _put("a", spec={"n": 1}), now=10)
        (old,) = _commit(store, fence, _put("a", old.revision, spec={"n": 2}), now=11)
        (new,) = _commit(store, fence, Delete("acme", "job", "a", old.revision), _put("a", 0, spec={"n": 3}), now=12)
        must((new.generation, new.created_at) == (1, 12), "a row made anew after its deletion is a new row")
        must(store.get("acme", "job", "a") == new, "the last change of a row counts")
        must(new.revision > old.revision, "and its revision is higher than all before")
        _stays(
            store, lambda: _commit(store, fence, _put("b"), _put("b")), StaleWrite, "making a row twice in one commit"
        )


def the_newest_fence_alone_may_write(make: Make) -> None:
    with closing(make()) as store:
        first = store.acquire("one")
        second = store.acquire("two")
        third = store.acquire("two")
        must(first < second < third, "each fence is higher than all before")
        (row,) = _commit(store, third, _put("a"), audit=(_entry("a"),))
        for wrong in (0, first, second, third + 1):
            for change in (_put("b"), _put("a", row.revision), Delete("acme", "job", "a", row.revision)):
                call = partial(_commit, store, wrong, change, audit=(_entry("b"),))
                _stays(store, call, StaleWrite, "only the newest fence may write")
        _stays(store, lambda: _commit(store, first, audit=(_entry("b"),)), StaleWrite, "not even an audit row")
        _commit(store, third, _put("a", row.revision))


def the_revision_tells_of_every_change(make: Make) -> None:
    with closing(make()) as store:
        fence = store.acquire("exam")
        seen = [store.revision()]
        rows = _commit(store, fence, _put("a"), _put("b"))
        seen.append(store.revision())
        must(len({row.revision for row in rows}) == 2, "each row has a revision of its own")
        _commit(store, fence, _put("a", rows[0].revision))
        seen.append(store.revision())
        _commit(store, fence, Delete("acme", "job", "b", rows[1].revision))
        seen.append(store.revision())
        must(seen == sorted(set(seen)), "writing and deleting raise the revision")
        must(max(row.revision for row in store.rows()) <= store.revision(), "no row is newer than the store")
        _commit(store, fence)
        store.get("acme", "job", "a")
        must(store.revision() == seen[-1], "reading and an empty commit leave it")


def _after(before: list[Resource], store: Store, revision: int, law: str) -> dict[Key, Resource]:
    """The rows `before`, which were those at `revision`, with what `since` says."""
    changes = store.since(revision)
    if changes is None:
        raise AssertionError(f"broken law: {law}: the last changes are known")
    keys = [row.key for row in changes.rows]
    must(keys == sorted(set(keys)), f"{law}: rows come once, ordered by (tenant, kind, name)")
    must(len(changes.gone) == len(set(changes.gone)), f"{law}: what is gone is told once")
    must(not set(changes.gone) & set(keys), f"{law}: a row is there or gone")
    must(all(row.revision > revision for row in changes.rows), f"{law}: no row is told that did not change")
    must(changes.revision == store.revision(), f"{law}: it tells up to the newest revision")
    rows = {row.key: row for row in before} | {row.key: row for row in changes.rows}
    return {key: row for key, row in rows.items() if key not in changes.gone}


def what_happened_since_is_told(make: Make) -> None:
    with closing(make()) as store:
        fence = store.acquire("exam")
        seen: list[tuple[int, list[Resource]]] = [(store.revision(), store.rows())]

        def commit(*changes: Change) -> list[Resource]:
            rows: list[Resource] = _commit(store, fence, *changes)
            seen.append((store.revision(), store.rows()))
            return rows

        a, b, c = commit(_put("a"), _put("b"), _put("b", tenant="beta"))
        (a,) = commit(Put(replace(a, spec={"n": 1}), a.revision))
        commit(Delete("acme", "job", "b", b.revision), _put("d"))
        must(store.since(seen[2][0]) is not None, "the last changes are known")
        (b,) = commit(_put("b", spec={"anew": True}))
        (a,) = commit(Delete("acme", "job", "a", a.revision), _put("a", spec={"anew": True}))
        commit(Put(replace(b, spec={"n": 2}), b.revision), Delete("beta", "job", "b", c.revision))
        passing = Put(Resource("acme", "job", "passing"), 0)
        commit(passing, Delete("acme", "job", "passing", store.revision() + 1))
        commit(Delete("acme", "job", "a", a.revision))
        for revision, before in seen:
            found = _after(before, store, revision, "what happened since a commit")
            must(sorted(found.items()) == [(row.key, row) for row in store.rows()], "it makes old rows those of now")
        gone = store.since(seen[-2][0])
        must(gone is not None and (gone.rows, gone.gone) == ([], [("acme", "job", "a")]), "a deletion is told")
        newest = store.since(store.revision())
        must(newest is not None and not newest.rows and not newest.gone, "after the newest revision nothing happened")
        for unknown in (-1, store.revision() + 1):
            must(store.since(unknown) is None, "of a revision that never was nothing is known")


def the_last_thousand_changes_are_known(make: Make) -> None:
    with closing(make()) as store:
        fence = store.acquire("exam")
        rows = _commit(store, fence, *(_put(f"j{number:04}") for number in range(600)))
        start, before = store.revision(), store.rows()
        _commit(store, fence, *(Delete(row.tenant, row.kind, row.name, row.revision) for row in rows))
        _commit(store, fence, *(_put(f"j{number:04}") for number in range(400)))
        found = _after(before, store, start, "1,000 changes")
        must(sorted(found) == [row.key for row in store.rows()], "1,000 changes are told")
        # How many more it knows is the store's own choice; what it tells is whole.
        _commit(store, fence, *(_put(f"k{number:05}") for number in range(11_000)))
        if store.since(start) is not None:
            found = _after(before, store, start, "12,000 changes")
            must(sorted(found) == [row.key for row in store.rows()], "what is told is whole")


def rows_are_ordered_and_paged(make: Make) -> None:
    with closing(make()) as store:
        fence = store.acquire("exam")
        names = ["B", "a", "a-b", "a.c", "a_b", "aa", "b", "\u00e9", "e\u0301", "z" * 200, "%", "_", "a'; --"]
        puts = [
            _put(name, tenant=tenant, kind=kind)
            for kind in ("version", "job", "Job")
            for tenant in ("beta", "acme", "Acme")
            for name in reversed(names)
        ]
        _commit(store, fence, *puts)
        keys = [row.key for row in store.rows()]
        must(keys == sorted(put.resource.key for put in puts), "all rows, ordered by (tenant, kind, name)")
        must([row.key for row in store.rows("acme")] == [k for k in keys if k[0] == "acme"], "of one tenant, exactly")
        must([row.key for row in store.rows(None, "job")] == [k for k in keys if k[1] == "job"], "of one kind, exactly")
        both = [k for k in keys if k[:2] == ("acme", "job")]
        must([row.key for row in store.rows("acme", "job")] == both, "of one kind of one tenant")
        must(store.rows("nobody") == [] and store.rows("acme", "nothing") == [], "and of none")
        must([row.key for row in store.rows(limit=5)] == keys[:5], "limit gives the first ones")
        must(store.rows(limit=0) == [], "limit 0 gives none")
        for size in (1, 4, len(both), 100):
            paged, after = [], ""
            while page := store.rows("acme", "job", after=after, limit=size):
                must(len(page) <= size, "a page holds at most `limit` rows")
                paged += [row.key for row in page]
                after = page[-1].name
            must(paged == both, "pages hold every row once, in order")
        must_raise(InvalidInput, lambda: store.rows("acme", after="a"), "after is a place within one kind")


def names_compare_exactly(make: Make) -> None:
    with closing(make()) as store:
        fence = store.acquire("exam")
        names = ["a", "A", "a ", " a", "\u00e9", "e\u0301"]
        _commit(store, fence, *(_put(name, spec={"is": name}) for name in names))
        for name in names:
            must(store.get("acme", "job", name).spec == {"is": name}, "names compare exactly")
        for key in (("Acme", "job", "a"), ("acme", "JOB", "a"), ("acme", "job", "a%"), ("acme", "job", "")):
            must_raise(NotFound, partial(store.get, *key), "tenants, kinds and names compare exactly")


def the_audit_trail_is_written_with_the_change(make: Make) -> None:
    with closing(make()) as store:
        fence = store.acquire("exam")
        (row,) = _commit(store, fence, _put("a"), audit=(_entry("a", n=[1]), _entry("z", "beta")), now=50)
        _commit(store, fence, audit=(_entry("b"), _entry("c"), _entry("d")), now=51)
        must(store.revision() == row.revision, "an audit row alone changes no row")
        trail = store.audit("acme")
        must([r["target"] for r in trail] == ["a", "b", "c", "d"], "the rows of one tenant, oldest first")
        first = {key: value for key, value in trail[0].items() if key != "seq"}
        expected = {
            "at": 50,
            "tenant": "acme",
            "actor": "ann",
            "permission": "jobs:run",
            "action": "job.run",
            "target": "a",
            "details": {"n": [1]},
        }
        must(first == expected, "an audit row holds the entry and its time")
        seqs = [r["seq"] for r in trail]
        must(seqs == sorted(set(seqs)) and seqs[0] > 0, "seq grows")
        must([r["target"] for r in store.audit("beta")] == ["z"], "a tenant sees its own rows alone")
        must([r["target"] for r in store.audit("acme", after=seqs[1])] == ["c", "d"], "after is a seq")
        must([r["target"] for r in store.audit("acme", after=seqs[0], limit=2)] == ["b", "c"], "limit cuts")
        must(store.audit("acme", after=seqs[-1]) == [] and store.audit("nobody") == [], "and there is an end")


def the_audit_trail_is_read_from_its_end_and_by_what_it_is_of(make: Make) -> None:
    with closing(make()) as store:
        fence = store.acquire("exam")
        for at, name in enumerate(("app/shop", "shop", "app/Shop", "model/risk", "workshop", "shop:2"), start=50):
            _commit(store, fence, audit=(_entry(name), _entry(name, "beta")), now=at)

        def targets(**asked: Any) -> list[str]:
            return [row["target"] for row in store.audit("acme", **asked)]

        must(targets(newest=True, limit=2) == ["shop:2", "workshop"], "the newest first, from the end on")
        last = store.audit("acme", newest=True, limit=2)[-1]["seq"]
        older = ["model/risk", "app/Shop", "shop", "app/shop"]
        must(targets(newest=True, after=last) == older, "and then what is older")
        must(targets(newest=True, after=1) == [], "down to its beginning")
        must(targets(target="shop") == ["app/shop", "shop"], "a name is that of any kind, and exact")
        must(targets(target="app/shop", newest=True) == ["app/shop"], "with its kind it is of this alone")
        must(targets(target="%") == [] and targets(target="/shop") == [], "nothing in it is a pattern")
        must(targets(since=54) == ["workshop", "shop:2"], "since is a time, inclusive")
        must(targets(since=51, target="shop", newest=True) == ["shop"], "all that is asked for holds together")


def nothing_is_shared(make: Make) -> None:
    with closing(make()) as store:
        fence = store.acquire("exam")
        spec: dict[str, Any] = {"list": [1, {"deep": 2}]}
        details: dict[str, Any] = {"list": [1]}
        entry = AuditEntry("acme", "ann", "jobs:run", "job.run", "a", details)
        (returned,) = _commit(store, fence, _put("a", spec=spec, status={"s": [1]}), audit=(entry,))
        spec["list"].append(3)
        details["list"].append(2)
        got, listed, trail = store.get("acme", "job", "a"), store.rows()[0], store.audit("acme")[0]
        for row in (returned, got, listed):
            row.spec["list"][1]["deep"] = 9
            row.status["s"].append(9)
        trail["details"]["list"].append(9)
        for row in (store.get("acme", "job", "a"), store.rows()[0]):
            must(row.spec == {"list": [1, {"deep": 2}]} and row.status == {"s": [1]}, "what is returned is a copy")
        must(store.audit("acme")[0]["details"] == {"list": [1]}, "what is returned is a copy")


def _in_threads(count: int, work: Callable[[int], None]) -> None:
    """Runs `work(0..count-1)` at once and raises the first error of any."""
    errors: list[BaseException] = []

    def guarded(number: int) -> None:
        try:
            work(number)
        except BaseException as error:  # raised again by the caller below
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(number,), daemon=True) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(_DEADLINE_S)
        must(not thread.is_alive(), "no call waits for ever")
    for error in errors:
        raise error


def writers_at_once_lose_nothing(make: Make) -> None:
    with closing(make()) as store:
        fence = store.acquire("exam")
        _commit(store, fence, _put("count", spec={"n": 0}))
        threads, rounds = 4, 10

        def count(number: int) -> None:
            done = 0
            for _ in range(1000):
                row = store.get("acme", "job", "count")
                changed = replace(row, spec={"n": row.spec["n"] + 1})
                try:
                    _commit(store, fence, Put(changed, row.revision), audit=(_entry(f"{number}"),))
                except StaleWrite:
                    continue
                done += 1
                if done == rounds:
                    return
            must(False, "a writer gets its turn")

        _in_threads(threads, count)
        must(store.get("acme", "job", "count").spec == {"n": threads * rounds}, "no write is lost or doubled")
        must(len(store.audit("acme", limit=1000)) == threads * rounds, "each has its audit row, the refused ones none")


def readers_see_whole_commits(make: Make) -> None:
    with closing(make()) as store:
        fence = store.acquire("exam")
        pair = _commit(store, fence, _put("a", spec={"n": 0}), _put("b", spec={"n": 0}))
        ended = threading.Event()

        def write_or_read(number: int) -> None:
            nonlocal pair
            if number:
                while not ended.is_set():
                    first, second = store.rows("acme", "job")
                    must(first.spec == second.spec, "a reader sees a commit whole or not at all")
                return
            try:
                for n in range(1, 40):
                    pair = _commit(store, fence, *(Put(replace(row, spec={"n": n}), row.revision) for row in pair))
            finally:
                ended.set()

        _in_threads(3, write_or_read)


STORE_CHECKS: tuple[Callable[[Make], None], ...] = (
    a_new_store_is_empty,
    rows_come_back_as_written,
    the_store_sets_what_is_its_own,
    a_write_needs_the_expected_revision,
    a_commit_is_whole_or_nothing,
    changes_are_made_in_order,
    the_newest_fence_alone_may_write,
    the_revision_tells_of_every_change,
    what_happened_since_is_told,
    the_last_thousand_changes_are_known,
    rows_are_ordered_and_paged,
    names_compare_exactly,
    the_audit_trail_is_written_with_the_change,
    the_audit_trail_is_read_from_its_end_and_by_what_it_is_of,
    nothing_is_shared,
    writers_at_once_lose_nothing,
    readers_see_whole_commits,
)


class AuditedStore(Store, VerifiableAudit, Protocol):
    """A store whose trail can be examined as a whole."""


def check_verifiable_audit(make: Callable[[], AuditedStore]) -> None:
    """The exam of `VerifiableAudit`. That a changed row is found is examined where rows can be changed."""
    with closing(make()) as store:
        must(store.verify_audit() == EMPTY, "an empty trail is whole")
        fence = store.acquire("exam")
        heads = []
        for number in range(5):
            _commit(store, fence, audit=(_entry(f"{number}", ["acme", "beta"][number % 2], n=number / 3),))
            heads.append(store.verify_audit())
        must([head.seq for head in heads] == [1, 2, 3, 4, 5], "one chain over all tenants, counted from 1")
        must(len({head.digest for head in heads}) == 5, "each row has a digest of its own")
        must(heads[-1].seq == store.audit("acme")[-1]["seq"], "the head is the last row")
        for head in heads:
            must(store.verify_audit(seen=head) == heads[-1], "a head seen before is still on the chain")
        for wrong in (AuditHead(3, heads[1].digest), AuditHead(6, heads[4].digest)):
            must_raise(
                Corrupt,
                partial(store.verify_audit, seen=wrong),
                "a head that is not on the chain",
                code="AUDIT_TAMPERED",
            )
