"""How a route table lies on HAProxy's slots."""

from collections import Counter

import pytest

from skyriver.adapters.haproxy import config
from skyriver.adapters.haproxy.layout import (
    SLOTS,
    TENANT_SLOTS,
    Moves,
    Place,
    Seen,
    assign,
    moves,
    place,
    routes_map,
    servers,
    slot_name,
    tokens_map,
)
from skyriver.control.gateway_rules import check_table
from skyriver.core.errors import Internal, InvalidInput
from skyriver.core.resources import Pool, RequestLimit, Route, RouteTable, Server

SETTINGS = config.Settings("127.0.0.1", 8080, "/run/control.sock", 1000, 2)


def pools(*names: str) -> list[Pool]:
    return [Pool("acme", name, ()) for name in names]


def test_a_pool_keeps_its_slot_and_a_slot_is_free_again_once_it_is_empty() -> None:
    first = assign({}, pools("a:1", "b:1"), ())
    assert first == {("acme", "a:1"): 0, ("acme", "b:1"): 1}
    second = assign(first, pools("b:1", "c:1"), {"slot_000", "slot_001"})  # a's servers still drain
    assert second == {("acme", "b:1"): 1, ("acme", "c:1"): 2}
    assert assign(second, pools("b:1", "c:1", "d:1"), {"slot_001"})["acme", "d:1"] == 0


def test_where_slots_run_out_nobody_takes_them_all_and_who_has_one_keeps_it() -> None:
    def of(tenant: str, count: int) -> list[Pool]:
        return [Pool(tenant, f"m{n}:1", ()) for n in range(count)]

    before = assign({}, of("acme", 2), ())
    slots = assign(before, [*of("greedy", SLOTS), *of("acme", 2)], ())
    assert Counter(tenant for tenant, _ in slots) == {"greedy": TENANT_SLOTS, "acme": 2}
    assert before.items() <= slots.items()
    assert len(set(slots.values())) == TENANT_SLOTS + 2
    both = assign(slots, [*of("greedy", SLOTS), *of("many", SLOTS), *of("acme", 3)], ())
    assert slots.items() <= both.items()
    assert Counter(tenant for tenant, _ in both) == {"greedy": TENANT_SLOTS, "acme": 3, "many": 125}
    assert assign(both, of("new", 1), {slot_name(n) for n in range(SLOTS)}) == {}


def test_what_got_no_slot_is_told_apart() -> None:
    split = Route("acme", "model", "m", (("m:1", 50), ("m:2", 50)))
    routes = (split, Route("acme", "stream", "s", (("s", 100),)), Route("acme", "model", "n", (("n:1", 100),)))
    table = RouteTable(routes, tuple(pools("m:1", "m:2", "s")))
    entries = routes_map(table, {("acme", "m:2"): 3})
    assert entries["acme/stream/s"] == entries["acme/version/m/1"] == "full"
    assert (entries["acme/model/m/0"], entries["acme/model/m/99"]) == ("full:slot_003", "slot_003:full")
    assert entries["acme/model/n"] == "none"
    assert servers(table, {("acme", "m:2"): 3}) == {}


def test_the_routes_of_a_split() -> None:
    route = Route("acme", "model", "m", (("m:1", 60), ("m:2", 40), ("m:3", 0), ("m:4", 0)))
    empty = Route("acme", "stream", "m", ())
    slots = {("acme", "m:1"): 0, ("acme", "m:2"): 1, ("acme", "m:3"): 2}
    entries = routes_map(RouteTable((route, empty)), slots)
    assert entries["acme/model/m"] == "split"
    assert [entries[f"acme/model/m/{bucket}"] for bucket in (0, 59, 60, 99)] == [
        "slot_000:slot_001",
        "slot_000:slot_001",
        "slot_001:slot_000",
        "slot_001:slot_000",
    ]
    assert entries["acme/stream/m"] == "none"
    assert {k: v for k, v in entries.items() if "/version/" in k} == {
        "acme/version/m/1": "slot_000",
        "acme/version/m/2": "slot_001",
        "acme/version/m/3": "slot_002",
    }
    assert len(entries) == 1 + 100 + 1 + 3


def test_one_pool_with_all_the_weight_needs_no_buckets() -> None:
    route = Route("acme", "model", "m", (("m:1", 0), ("m:2", 100)))
    assert routes_map(RouteTable((route,)), {("acme", "m:2"): 7}) == {
        "acme/model/m": "slot_007",
        "acme/version/m/2": "slot_007",
    }
    assert routes_map(RouteTable((route,)), {}) == {"acme/model/m": "none"}


def test_only_what_is_limited_looks_for_limits() -> None:
    limit = RequestLimit(per_second=100, at_once=32)
    routes = (
        Route("acme", "model", "m", (("m:1", 60), ("m:2", 40)), limit=limit),
        Route("acme", "model", "free", (("free:1", 100),)),
        Route("other", "stream", "s", (("s", 100),)),
    )
    slots = {("acme", "m:1"): 0, ("acme", "m:2"): 1, ("acme", "free:1"): 2, ("other", "s"): 3}
    entries = routes_map(RouteTable(routes), slots, 2)
    assert entries["acme/model/m"] == "split"  # as it must be spelled; its buckets are marked
    assert (entries["acme/model/m/0"], entries["acme/version/m/2"]) == ("slot_000:slot_001:limited", "slot_001:limited")
    assert entries["acme/model/m/limits"] == "50:16"
    assert (entries["acme/model/free"], entries["acme/version/free/1"]) == ("slot_002", "slot_002")
    assert entries["other/stream/s"] == "slot_003"

    entries = routes_map(RouteTable(routes, limits=(("other", limit),)), slots)
    assert (entries["other/stream/s"], entries["other/limits"]) == ("slot_003:limited", "100:32")
    assert entries["acme/model/free"] == "slot_002"


def test_another_socket_under_the_same_name_is_another_server() -> None:
    old, new = place(3, Server("one", "/run/a")), place(3, Server("one", "/run/b"))
    assert old != new
    assert old.name == new.name == "one"
    seen = {
        old: Seen("UP", 1),
        Place("slot_004", "gone:1"): Seen("MAINT", 0),
        Place("slot_004", "slow:1"): Seen("MAINT", 2),
        Place("slot_004", "back:1"): Seen("MAINT", 0),
    }
    wanted = {new: Server("one", "/run/b"), Place("slot_004", "back:1"): Server("back", "/run/c")}
    assert moves(wanted, seen) == Moves(
        add=((new, Server("one", "/run/b")),),
        revive=(Place("slot_004", "back:1"),),
        retire=(old,),
        remove=(Place("slot_004", "gone:1"),),
    )


def test_a_server_without_a_socket_is_not_placed() -> None:
    table = RouteTable(pools=(Pool("acme", "m:1", (Server("here", "/run/a"), Server("nowhere", ""))),))
    check_table(table)
    assert [at.name for at in servers(table, {("acme", "m:1"): 0})] == ["here"]


def test_tokens_are_written_as_haproxy_writes_hex() -> None:
    assert tokens_map(RouteTable(tokens=(("ab" * 32, "acme"),))) == {"AB" * 32: "acme"}


def test_a_token_that_may_only_look_stays_the_tenant_s_for_an_older_haproxy() -> None:
    looks, writes = "ab" * 32, "cd" * 32
    table = RouteTable(tokens=((looks, "acme"), (writes, "acme")), read_only=(looks,))
    check_table(table)
    assert tokens_map(table) == {"AB" * 32: "acme", "CD" * 32: "acme", "AB" * 32 + "/read_only": "acme"}


@pytest.mark.parametrize("value", ["a b", "a\nb", "", "a;b", "a\\b"])
def test_nothing_odd_reaches_a_map_or_a_command(value: str) -> None:
    with pytest.raises(Internal):
        config.map_text({value: "slot_000"})
    with pytest.raises(Internal):
        config.map_text({"acme/model/m": value})
    with pytest.raises((Internal, InvalidInput)):
        config.server_line(Place("slot_000", "one:1"), Server("one", f"/run/{value} x"))
    with pytest.raises(Internal):
        config.server_line(Place("slot_000", f"{value} x"), Server("one", "/run/a"))


def test_a_server_that_holds_requests_gets_more_of_them() -> None:
    worker = config.server_line(Place("slot_000", "one:1"), Server("one", "/run/a"))
    holder = config.server_line(Place("slot_000", "one:1"), Server("one", "/run/a", holds=True))
    assert (worker.endswith(" maxconn 512"), holder.endswith(" maxconn 4000")) == (True, True)


@pytest.mark.parametrize(("cores", "threads"), [(1, 1), (2, 1), (3, 1), (4, 2), (6, 3), (8, 4), (64, 4)])
def test_replicas_have_half_of_the_cores(cores: int, threads: int) -> None:
    assert config.threads_for(cores) == threads


def test_what_the_machine_allows_does_not_make_it_another_gateway() -> None:
    digest = config.static_digest(SETTINGS)
    assert digest == config.static_digest(config.Settings("127.0.0.1", 8080, "/run/control.sock", 500, 1))
    assert digest != config.static_digest(config.Settings("127.0.0.1", 8081, "/run/control.sock", 1000, 2))


@pytest.mark.parametrize(("descriptors", "connections"), [(256, 64), (1024, 256), (20_000, 8976), (1 << 20, 10_000)])
def test_connections_fit_into_the_open_files(descriptors: int, connections: int) -> None:
    assert config.connections_for(descriptors) == connections
    assert 2 * connections < descriptors
