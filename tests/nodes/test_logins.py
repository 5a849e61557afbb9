"""Logins as the store keeps them and commands change them; the broker itself stands in tests/broker."""

import json
from pathlib import Path
from typing import Any

import duckdb
import pytest
from mcp_types import CallToolResult

from gateway.__main__ import main
from gateway.access import authority
from gateway.access.commands import NodeAdd, NodeIssued, NodeLogins, NodeRevoke, NodeRotate
from gateway.access.logins import LoginError, Logins, NodeKeys, check_topics, hashed
from gateway.access.principal import Principal, Scope
from gateway.command import ControlError, Unconfirmed
from gateway.store import login_rows, queries
from gateway.store.backups import snapshot
from gateway.store.db import Store
from tests.brokers import FixedClock
from tests.control.scene import Scene, scene
from tests.web.house import ERAS

GOOD = (
    "tele/plug-1/#",
    "stat/plug-1/+",
    "plug-1",
    "+/plug-1/#",
    "devices/plug-1/#",
    "zigbee2mqtt/#",
    "homeassistant/status",
    "tele/+/STATE",
    "a" * 200,
)
BAD = {
    "": "1 to 200 bytes",
    "a" * 201: "1 to 200 bytes",
    "tele/pl ug/#": "without spaces",
    "tele/plug\n": "without spaces",
    "tele/plug\ntopic readwrite #": "without spaces",
    "tele/\x00": "without spaces",
    "#": "this is everything",
    "tele/#/x": "# stands alone",
    "tele/plug#": "# stands alone",
    "tele/plug+": "+ stands alone",
    "+/#": "reaches devices/ of others",
    "+/+/commands/+": "reaches devices/ of others",
    "+/other/#": "reaches devices/ of others",
    "devices/#": "reaches devices/ of others",
    "devices/+/ack": "reaches devices/ of others",
    "devices/plug-2/ack": "reaches devices/ of others",
    "$SYS/#": "broker's own",
    "$CONTROL/dynamic-security/v1": "broker's own",
    "$share/x/tele/#": "broker's own",
    "gateway/agw-1/status": "gateway says of itself",
    "ambient-gateway/nothing": "gateway says of itself",
}


@pytest.mark.parametrize("topic", GOOD)
def test_topics_of_a_device_of_another_maker(topic: str) -> None:
    check_topics("plug-1", [topic], [topic])


@pytest.mark.parametrize("topic", list(BAD), ids=repr)
@pytest.mark.parametrize("option", ["write", "read"])
def test_topics_that_reach_too_far(option: str, topic: str) -> None:
    write, read = ([topic], []) if option == "write" else ([], [topic])
    with pytest.raises(LoginError) as caught:
        check_topics("plug-1", write, read)
    assert f"--{option}" in str(caught.value)
    assert BAD[topic] in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_is_said_for_everybody_may_be_read_and_not_written() -> None:
    check_topics("home-assistant", [], ["devices/+/sensors/+/state", "devices/+/status", "gateway/+/status"])
    with pytest.raises(LoginError, match="devices/ of others"):
        check_topics("home-assistant", ["devices/+/status"], [])


def test_equal_passwords_have_unequal_hashes() -> None:
    assert hashed("x") != hashed("x")
    assert hashed("x").startswith("$7$1$")


async def open_logins(store: Store) -> tuple[Logins, NodeKeys]:
    keys = NodeKeys(store)
    await keys.load()
    logins = Logins(store, FixedClock(), keys)
    await logins.load()
    return logins, keys


async def test_the_store_keeps_them_and_no_password(tmp_path: Path) -> None:
    async with Store(tmp_path) as store:
        logins, keys = await open_logins(store)
        assert not logins.guarded
        node = await logins.add("n1")
        plug = await logins.add("plug", ("tele/plug/#", "stat/plug/#"), ("cmnd/plug/#",))
        assert node.note == "no gateway runs on this data: it counts from the next start on"
        assert (keys.get("n1"), keys.get("plug"), plug.key) == (bytes.fromhex(node.key or ""), None, None)
        assert (await logins.rotate("n1")).key is None
        assert keys.get("n1") == bytes.fromhex(node.key or "")
        await logins.revoke("n1")
    async with Store(tmp_path) as store:
        logins, keys = await open_logins(store)
        assert logins.guarded
        first, second = logins.rows()
        assert (first.user, first.hash, first.revoked, keys.get("n1")) == ("n1", "", FixedClock().now(), None)
        assert (second.may_write, second.may_read) == (("tele/plug/#", "stat/plug/#"), ("cmnd/plug/#",))
        assert [row.user for row in logins.live()] == ["plug"]
    assert (plug.password or "").encode() not in (tmp_path / "hot.duckdb").read_bytes()


async def test_what_cannot_be_is_said(tmp_path: Path) -> None:
    async with Store(tmp_path) as store:
        logins, keys = await open_logins(store)
        await logins.add("plug", ("tele/plug/#",))
        await logins.add("n1")
        for attempt, why in (
            (logins.add("plug"), "'plug' is a device of another maker already"),
            (logins.add("n1", ("tele/n1/#",)), "'n1' is a node of ours already"),
            (logins.add("a b"), "is no id"),
            (logins.rotate("plug", key=True), "it has no key"),
            (logins.rotate("n2"), "'n2' has no login; did you mean 'n1'"),
            (logins.revoke("n2"), "'n2' has no login"),
        ):
            with pytest.raises(LoginError, match=why):
                await attempt

        async def nothing() -> str:
            return ""

        logins.attach(nothing, elsewhere="the broker at x:1883 is not this gateway's: make logins there")
        issued = await logins.add("n3")  # its key is the gateway's own affair
        assert (issued.password, issued.note[:17], keys.get("n3") is not None) == (None, "the broker at x:1", True)
        with pytest.raises(LoginError, match="not this gateway's"):
            await logins.add("plug-2", ("tele/plug-2/#",))
        with pytest.raises(LoginError, match="not this gateway's"):
            await logins.rotate("n3")
        assert "not this gateway's" in await logins.revoke("n3")
        assert keys.get("n3") is None


async def test_an_older_gateway_leaves_them_alone_and_backups_without_keys_have_none(tmp_path: Path) -> None:
    async with Store(tmp_path) as store:
        logins, _ = await open_logins(store)
        await logins.add("n1")
        for keys, rows in ((True, 1), (False, 0)):
            with snapshot.lend(tmp_path) as place:
                await snapshot.take(store, place.name, FixedClock().now(), keys=keys)
                with duckdb.connect(str(place / "hot.duckdb"), read_only=True) as db:
                    assert db.execute("select count(*) from broker_login").fetchall() == [(rows,)]
                    told = db.execute("select 1 from setting where name = ?", [login_rows.GUARDED]).fetchall()
                assert told == [(1,)]  # such a gateway stays closed


def said(result: CallToolResult) -> dict[str, Any]:
    assert not result.is_error, result.content
    assert isinstance(result.structured_content, dict)
    return result.structured_content


async def test_commands_are_for_admins_and_audited(tmp_path: Path) -> None:
    async with scene(tmp_path) as home:
        run = home.acting.commands.run
        for scope in (Scope.READ, Scope.CONTROL):
            for attempt in (
                NodeAdd(device="n1"),
                NodeRotate(device="n1"),
                NodeRevoke(device="n1", confirm=True),
                NodeLogins(),
            ):
                with pytest.raises(ControlError, match="needs scope admin"):
                    await run(attempt, Principal("somebody", scope))
        issued = await run(NodeAdd(device="n1"))
        assert isinstance(issued, NodeIssued)
        with pytest.raises(Unconfirmed, match="ends the login of n1 and its key"):
            await run(NodeRevoke(device="n1"))
        assert await told_of(home, "n1")
        rows = await queries.audit_rows(home.house.store)
        assert {(row.action, row.target) for row in rows if row.allowed} == {("add_node", "n1")}
        assert issued.password not in json.dumps([str(row) for row in rows])


async def told_of(home: Scene, user: str) -> list[dict[str, Any]]:
    found = (await home.acting.commands.run(NodeLogins())).model_dump(mode="json")
    return [each for each in found["logins"] if each["device"] == user]


@pytest.mark.parametrize("era", ERAS)
async def test_tools_show_secrets_to_admins_only_and_once(tmp_path: Path, era: str) -> None:
    async with scene(tmp_path) as home, home.client(era, Scope.ADMIN, "nodes") as client:
        issued = await home.core.logins.add("n1")
        listed = said(await client.call_tool("list_node_logins", {}))
        (row,) = listed["logins"]
        assert (row["device"], row["kind"], row["has_key"]) == ("n1", "node", True)
        new = said(await client.call_tool("rotate_node_login", {"device": "n1", "key": True}))
        assert (len(new["password"]), len(bytes.fromhex(new["key"]))) == (43, 32)
        listed = said(await client.call_tool("list_node_logins", {}))
        for secret in (issued.key, issued.password, new["key"], new["password"], *hashes(home)):
            assert secret not in json.dumps(listed)
        done = said(await client.call_tool("revoke_node_login", {"device": "n1", "confirm": True}))
        assert done["done"].startswith("n1 is not let in any more")
        assert home.core.keys.get("n1") is None
    async with scene(tmp_path / "again") as home, home.client(era, Scope.CONTROL, "nodes") as client:
        assert not [each.name for each in (await client.list_tools()).tools if "login" in each.name]


def hashes(home: Scene) -> list[str]:
    return [row.hash for row in home.core.logins.rows()]


async def test_a_claim_gives_key_and_password_and_a_deletion_ends_both(tmp_path: Path) -> None:
    async with scene(tmp_path) as home:
        applied: list[tuple[int, bool]] = []

        async def apply() -> str:
            applied.append((len(home.core.logins.live()), "node-1" in home.house.registry.ids()))
            return ""

        home.core.logins.attach(apply)
        claimed = said(await home.call(ERAS[1], Scope.ADMIN, "claim_device", device="node-1"))
        assert (len(claimed["key"]), claimed["user"], len(claimed["password"])) == (64, "node-1", 43)
        again = said(await home.call(ERAS[1], Scope.CONTROL, "claim_device", device="node-2"))
        assert not {"key", "password", "user"} & again.keys()
        said(await home.call(ERAS[1], Scope.ADMIN, "delete_device", device="node-1", confirm=True))
        assert home.core.logins.rows() == []
        assert home.core.keys.get("node-1") is None
        assert applied[:2] == [(1, True), (0, True)]  # it is sent away before it is forgotten, or it would come back
        await home.core.logins.load()
        assert home.core.logins.guarded


def test_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What is printed where no gateway runs: secrets alone on standard output, words beside it."""

    def command(*words: str) -> tuple[int, str, str]:
        code = main(["node", *words, "--data", str(tmp_path)])
        return code, *capsys.readouterr()

    code, out, err = command("add", "n1", "--json")
    told = json.loads(out)
    assert (code, told.keys(), told["user"]) == (0, {"device", "key", "user", "password"}, "n1")
    assert "from the next start on" in err
    code, out, err = command("add", "n2")
    assert json.loads(f"{{{out}}}")["broker"].keys() == {"user", "password"}  # as it stands in a node's node.json
    assert "not shown again" in err
    code, out, err = command("add", "n2", "--dry-run")
    assert (code, out, "those that it has end (nothing was done)" in err) == (0, "", True)
    for device, ends in (("n2", True), ("n3", False)):
        assert json.loads(command("add", device, "--dry-run", "--json")[1])["ends"] is ends
    code, out, err = command("rotate", "n1")
    assert (code, len(out.strip())) == (0, 43)
    code, out, err = command("revoke", "n1")
    assert (code, out) == (1, "")
    assert "say so with --yes" in err
    code, _, err = command("revoke", "n1", "--yes")
    assert (code, "is not let in any more" in err) == (0, True)
    code, out, _ = command("list", "--json")
    assert [(row["device"], row["revoked"] is not None) for row in json.loads(out)] == [("n1", True), ("n2", False)]
    code, out, err = command("add", "plug", "--write", "devices/+/ack")
    assert (code, out) == (1, "")
    assert "--write 'devices/+/ack': this reaches devices/ of others" in err
    _, out, _ = command("ca")
    assert out == authority.load_or_create(tmp_path / "identity", "").pem
