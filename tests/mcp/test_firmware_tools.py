"""Firmware for assistants: what runs where, rollouts with a preview, word by word and bounded."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from gateway.access.principal import Scope
from gateway.nodes.ota.offer import Phase
from gateway.nodes.ota.rollout import Said
from gateway.nodes.ota.rollout_commands import AbortRollout
from tests.control.scene import Scene, scene
from tests.nodes.bundles import PUBLIC, written
from tests.web.house import ERAS


async def furnished(home: Scene, count: int, tail: str = "") -> list[str]:
    """Nodes with keys that say what they are, and a bundle."""
    updating = home.acting.updating
    await updating.shelf.trust(PUBLIC, "anna", "local")
    await updating.shelf.add(await updating.shelf.check(written(home.core.folder)), "anna")
    names = [f"esp-{number:03}{tail}" for number in range(count)]
    for name in names:
        home.core.keys.put(name, name.encode()[:8] * 4)
        said = {"firmware_version": "1.3.0", "board": "esp32", "slots": "files"}
        await home.core.registry.capabilities(name, said)
        await updating.fleet.capabilities(name, said)
        await updating.fleet.status(name, "1-aa")
    return names


def told(result: Any) -> dict[str, Any]:
    assert not result.is_error, result.content[0].text
    assert json.loads(result.content[0].text) == result.structured_content
    found: dict[str, Any] = result.structured_content
    assert found["now"] == "2026-11-20T13:00:00+01:00"
    return found


@pytest.mark.parametrize("era", ERAS)
async def test_a_rollout_by_word_of_mouth(tmp_path: Path, era: str) -> None:
    async with scene(tmp_path) as home:
        first, second = await furnished(home, 2)
        listed = told(await home.call(era, Scope.READ, "list_firmware"))
        assert (listed["total"], listed["bundles"][0]["version"]) == (2, "1.4.0")
        one = {"device": first, "status": "silent", "board": "esp32", "version": "1.3.0", "behind": "1.4.0"}
        assert listed["nodes"][0].items() >= (one | {"since": "2026-11-20T13:00:00+01:00", "age_s": 0.0}).items()
        async with home.client(era, Scope.ADMIN) as boss:
            wish = {"devices": [first, second, "node-1"]}
            preview = told(await boss.call_tool("initiate_firmware_update", wish | {"dry_run": True}))
            assert preview["totals"] == {"updates": 2, "skipped": 1}
            assert preview["devices"][0] == {"device": first, "runs": "1.3.0", "board": "esp32", "online": True}
            assert preview["devices"][2]["reason"].startswith("it has no key")
            refused = await boss.call_tool("initiate_firmware_update", wish)
            assert refused.is_error
            assert "this updates 2 nodes to 1.4.0 and restarts each; 1 are left out" in str(refused.content[0])
            begun = told(await boss.call_tool("initiate_firmware_update", wish | {"confirm": True}))
            assert begun["counts"] == {"waiting": 1, "offered": 1, "skipped": 1}
            rollout = {"rollout": begun["rollout"]}
            assert told(await boss.call_tool("pause_rollout", rollout | {"reason": "dinner"}))["reason"] == (
                "by my-admin: dinner"
            )
            assert told(await boss.call_tool("resume_rollout", rollout))["state"] == "running"
        found = told(await home.call(era, Scope.READ, "get_rollout", **rollout))
        assert [(each["device"], each["state"]) for each in found["devices"]] == [
            (first, "offered"),
            (second, "waiting"),
            ("node-1", "skipped"),
        ]
        brief = told(await home.call(era, Scope.READ, "get_rollout"))["rollouts"]
        assert [(each["rollout"], each["state"], each["age_s"]) for each in brief] == [(begun["rollout"], "running", 0)]
        device = told(await home.call(era, Scope.READ, "get_device", device=first))
        assert (device["status"], device["reason"]) == ("updating", "version 1.4.0: offered")
        wrong = await home.call(era, Scope.READ, "get_rollout", rollout="deadbeef")
        assert f"there is no rollout 'deadbeef'; the last are {begun['rollout']}" in str(wrong.content[0])


@pytest.mark.parametrize("era", ERAS)
async def test_who_waits_is_told_how_far_it_is(tmp_path: Path, era: str) -> None:
    async with scene(tmp_path) as home:
        first, _ = await furnished(home, 2)
        heard: asyncio.Queue[tuple[float, str]] = asyncio.Queue()

        async def progress(done: float, _total: float | None, words: str | None) -> None:
            await heard.put((done, words or ""))

        async with home.client(era, Scope.ADMIN) as boss:
            begun = told(
                await boss.call_tool("initiate_firmware_update", {"devices": [first, "esp-001"], "confirm": True})
            )
            call = boss.call_tool(
                "get_rollout", {"rollout": begun["rollout"], "wait_s": 20}, progress_callback=progress
            )
            waiting = asyncio.create_task(call)
            async with asyncio.timeout(15):
                assert await heard.get() == (0.0, "1 waiting, 1 offered")
                rollouts = home.acting.updating.rollouts
                (live,) = rollouts.running()
                said = Said(first, live.targets[first].offer, Phase.DOWNLOADING, 50)
                await rollouts.heard(said)
                assert await heard.get() == (0.125, "1 waiting, 1 downloading")
                await home.acting.commands.run(AbortRollout(rollout=begun["rollout"]))
                assert told(await waiting)["state"] == "aborted"


async def test_an_answer_is_bounded_failures_first(tmp_path: Path) -> None:
    async with scene(tmp_path) as home:
        names = await furnished(home, 200, "-of-a-very-large-house-with-long-names")
        preview = await home.call(ERAS[0], Scope.ADMIN, "initiate_firmware_update", everyone=True, dry_run=True)
        assert told(preview)["totals"]["updates"] == 200
        wish = {"devices": names, "canary": 100, "at_once": 50, "confirm": True}
        begun = told(await home.call(ERAS[0], Scope.ADMIN, "initiate_firmware_update", **wish))
        rollouts = home.acting.updating.rollouts
        (live,) = rollouts.running()
        await rollouts.heard(Said(names[40], live.targets[names[40]].offer, Phase.FAILED, 0, "no room"))
        result = await home.call(ERAS[0], Scope.READ, "get_rollout", rollout=begun["rollout"])
        found = told(result)
        assert (found["devices"][0]["device"], found["devices"][0]["reason"]) == (names[40], "no room")
        assert found["left_out"] == 200 - len(found["devices"]) > 0
        assert found["counts"] == {"waiting": 150, "offered": 49, "failed": 1}
        assert len(str(result.content[0].text).encode()) < 25_000  # type: ignore[union-attr]
