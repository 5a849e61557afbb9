"""Watchdog, LED, commands, the way to a broker: each with the parts around it made up."""

import asyncio
import json
import os
import time

from node import link as links
from node import orders, wire
from node.commands import Commands
from node.link import Link, cached
from node.mqtt import Refused
from node.tasks import first, forget
from node.watch import CLOCK, NO_NETWORK, SENSOR, Led, Progress, guard
from vectors import raises


class Uptime:
    """A clock whose time is the virtual one."""

    def __init__(self):
        self._began = time.ticks_ms()

    def uptime_ms(self):
        return time.ticks_diff(time.ticks_ms(), self._began)


class Dog:
    fed = 0

    def feed(self):
        self.fed += 1


def test_the_watchdog_is_fed_while_all_make_progress_and_never_after():
    progress, dog, stuck = Progress(Uptime()), Dog(), []

    async def works():
        while True:
            progress.mark("works", 10)
            await asyncio.sleep(5)

    async def hangs():
        progress.mark("hangs", 60)
        await asyncio.sleep(600)

    async def main():
        tasks = [asyncio.create_task(works()), asyncio.create_task(hangs())]
        await guard(progress, dog, stuck.append)
        for task in tasks:
            task.cancel()

    asyncio.run(main())
    assert stuck == ["hangs"]
    assert 10 <= dog.fed <= 14, dog.fed


def test_the_led_shows_the_worst_first():
    led = Led(None, 1)
    led.fault(NO_NETWORK, False)
    assert led.pattern() == "1"
    led.fault(CLOCK, True)
    led.fault(SENSOR, True)
    assert led.pattern() == "1010000000"
    led.fault(NO_NETWORK, True)
    assert led.pattern() == "11111000000000"
    led.identify(3)
    assert led.pattern() == "10"


class Pin:
    def __init__(self):
        self.levels = []

    def value(self, level):
        self.levels.append(level)


def test_the_led_blinks_and_identifies_for_as_long_as_it_was_told():
    pin = Pin()
    led = Led(pin, 0)  # lit when low
    led.fault(NO_NETWORK, False)
    led.identify(2)

    async def main():
        task = asyncio.create_task(led.run())
        await asyncio.sleep(4)
        task.cancel()

    asyncio.run(main())
    assert pin.levels[:10] == [0, 1] * 5
    assert pin.levels[10:] and not any(pin.levels[10:])


def test_the_first_that_ends_ends_all():
    gone = []

    async def forever(name):
        try:
            await asyncio.sleep(1000)
        finally:
            gone.append(name)

    async def fails():
        await asyncio.sleep(1)
        raise OSError("dead")

    async def main():
        await first(forever("a"), fails(), forever("b"))

    assert raises(OSError, asyncio.run, main()) == "dead"
    assert sorted(gone) == ["a", "b"]


class Radio:
    """In reach are the networks `near`."""

    def __init__(self, near):
        self._near, self._on = near, None
        self.tried = []
        self.confused = 0

    def active(self, on):
        if not on:
            self._on = None

    def config(self, reconnects):
        assert reconnects == 0, "by itself it would try for ever"

    def connect(self, name, password):
        self.tried.append(name)
        if self.confused:
            self.confused -= 1
            raise OSError("Wifi Internal State Error")
        self._on = name if name in self._near else None

    def disconnect(self):
        self._on = None

    def isconnected(self):
        return self._on is not None


class Brokers:
    """A client to whom some addresses answer; `asked` is (time, address)."""

    def __init__(self, clock, there=(), refusing=()):
        self._clock, self._there, self._refusing = clock, there, refusing
        self.asked = []

    async def connect(self, host, port, will, tls):
        self.asked.append((self._clock.uptime_ms() // 1000, (host, port)))
        if (host, port) in self._refusing:
            raise Refused(5)
        if (host, port) not in self._there:
            raise OSError(111)

    async def listen(self):
        await asyncio.sleep(100000)

    async def care(self):
        pass

    def close(self):
        pass


def make(broker, there=(), refusing=(), near=("house",), session=None, found=()):
    """A link in a house, and what it is told to restart for."""
    clock, reasons = Uptime(), []
    wlan, client = Radio(near), Brokers(clock, there, refusing)

    async def lasts(host):
        await asyncio.sleep(100000)

    async def search(name):
        return list(found)

    links.search = search
    config = {"wifi": [("away", "x"), ("house", "y")], "broker": broker, "device": "n1"}
    link = Link(config, wlan, client, clock, Progress(clock), session or lasts, reasons.append)
    return link, wlan, client, reasons


def live(link, seconds):
    async def main():
        task = asyncio.create_task(link.run(("t", b"")))
        await asyncio.sleep(seconds)
        task.cancel()

    asyncio.run(main())


FIXED = {"host": "10.0.0.1", "port": 1883, "ca": None, "name": None}
SOUGHT = {"host": None, "port": 1883, "ca": None, "name": None}
FALSE, TRUE = ("10.0.0.66", 1883), ("10.0.0.2", 1883)


def test_networks_are_tried_in_order():
    link, wlan, _, _ = make(FIXED, there=[("10.0.0.1", 1883)])
    live(link, 60)
    assert wlan.tried == ["away", "house"]
    assert link.up or link.connects == 1


def test_a_confused_radio_is_switched_off_and_on():
    link, wlan, _, _ = make(FIXED, there=[("10.0.0.1", 1883)])
    wlan.confused = 3
    live(link, 120)
    assert wlan.tried == ["away", "house", "away", "house"] and link.connects == 1


def test_no_broker_backs_off_and_starts_anew_after_a_quarter_of_an_hour():
    link, _, client, reasons = make(FIXED)
    live(link, 1000)
    pauses = [after[0] - before[0] for before, after in zip(client.asked, client.asked[1:])]
    assert max(pauses[:2]) <= 3 and 25 <= max(pauses) <= 61, pauses
    assert len(set(pauses[-8:])) > 1, "jitter: a fleet must not come back as one"
    assert 1 <= len(reasons) <= 3
    assert reasons[0].startswith("no broker for 15 minutes")


def test_a_refusal_is_not_hammered():
    link, _, client, _ = make(FIXED, refusing=[("10.0.0.1", 1883)])
    live(link, 300)
    assert len(client.asked) <= 11, client.asked
    assert "code 5" in link.trouble


def test_who_does_not_prove_to_be_the_gateway_is_asked_last():
    """Two answer to mDNS, the false one first; the one that proved itself is asked first over restarts."""
    made = []

    async def session(host):
        link = made[0]
        await asyncio.sleep(5)
        if link.address == FALSE:
            link.suspect()
            raise OSError("nothing signed")
        link.proven()
        await asyncio.sleep(100000)

    link, _, client, _ = make(SOUGHT, there=[FALSE, TRUE], session=session, found=[FALSE, TRUE])
    made.append(link)
    live(link, 120)
    assert [address for _, address in client.asked] == [FALSE, TRUE]
    assert cached() == TRUE
    link, _, client, _ = make(SOUGHT, there=[FALSE, TRUE], session=session, found=[FALSE])
    made[0] = link
    live(link, 60)
    assert client.asked[0][1] == TRUE


def test_a_damaged_cache_is_none():
    for text in ("", "{}", "[1, 2]", '["h"]'):
        with open("broker.json", "w") as file:
            file.write(text)
        assert cached() is None, text


class Places:
    places = []


KEY, BOOT = bytes(range(32)), "7-0000abcd"


def listening(key=None, boot=BOOT):
    """A node's commands; what it was told to restart for, and what it complained of."""
    reasons, complaints = [], []

    def report(code, text):
        complaints.append((code, text))

    who = "n1", key, boot
    return Commands(who, Places(), Led(None, 1), lambda: {"fine": True}, reasons.append, report), reasons, complaints


def obeyed(commands):
    """The answers to what waits: signed, where the node has a key."""
    is_signed = commands._parts[0][1] is not None
    answers = []

    async def main():
        async def answer(command_id, *payload):
            body = json.loads(b"".join(payload))
            assert ("mac" in body) == is_signed
            body.pop("mac", None)
            answers.append((command_id, body))

        while commands.waiting:
            await commands.obey(answer)

    asyncio.run(main())
    return answers


def commanded(*payloads):
    """The answers to these commands, and what a restart was given as its reason."""
    commands, reasons, _ = listening()
    for number, payload in enumerate(payloads):
        commands.heard("c%d" % number, payload)
        commands.heard("c%d" % number, payload)  # QoS 1 may bring it twice
    return obeyed(commands), reasons


def envelope(command_id, n, name="get_diagnostics", args=None, boot=BOOT, key=KEY, device="n1"):
    """A signed command."""
    body = json.dumps({"name": name, "args": args or {}, "boot": boot, "n": n})
    return json.dumps({"body": body, "mac": wire.mac(key, "command", device, command_id, body)}).encode()


def test_a_command_is_obeyed_once():
    answers, _ = commanded(b'{"name":"get_diagnostics"}')
    assert answers == [("c0", {"ok": True, "result": {"fine": True}})]


def test_one_of_a_kind_at_a_time_and_few_at_all():
    answers, _ = commanded(*[b'{"name":"identify","args":{"seconds":1}}'] * 2)
    assert answers[0][1]["ok"] and "busy" in answers[1][1]["error"]
    answers, _ = commanded(*[b'{"name":"command%d"}' % number for number in range(20)])
    assert len(answers) == 8
    assert all(["no command" in body["error"] for _, body in answers[:4]])
    assert all(["busy" in body["error"] for _, body in answers[4:]])


def test_a_node_with_a_key_obeys_nothing_else():
    commands, reasons, complaints = listening(KEY)
    given = [
        b'{"name":"restart"}',
        envelope("c1", 5, "restart", key=b"f" * 32),
        envelope("cX", 5, "restart"),  # signed for another id
        envelope("c3", 5, "restart", device="n2"),
        envelope("c4", True, "restart"),
        envelope("c5", 5, "restart", boot=7),
        json.dumps({"body": {"name": "restart"}, "mac": "0" * 32}).encode(),
    ]
    for number, payload in enumerate(given):
        commands.heard("c%d" % number, payload)
    answers = obeyed(commands)
    assert [body["ok"] for _, body in answers] == [False] * len(given) and not reasons
    assert commands.refused == len(given) == len(complaints)
    assert complaints[0] == (
        "command_refused",
        "1 commands refused, the last one because: not signed with this node's key",
    )
    commands.heard("c9", envelope("c9", 5, "restart"))
    assert obeyed(commands)[0][1]["ok"] and reasons == ["told to"]


def test_a_command_that_was_heard_is_of_no_use_to_anybody():
    """Said again, said again under another id, to another boot, older than the last: refused, and told what is so."""
    commands, _, _ = listening(KEY)
    first, second = envelope("c1", 1795000000001), envelope("c2", 1795000000000)
    commands.heard("c1", first)
    assert obeyed(commands) == [("c1", {"ok": True, "result": {"fine": True}})]
    commands.heard("c1", first)
    assert obeyed(commands) == [], "QoS 1 brought it twice"
    for number in range(10, 20):
        commands.heard("c%d" % number, envelope("c%d" % number, 1795000000100 + number))
        obeyed(commands)
    commands.heard("c1", first)
    commands.heard("c2", second)
    commands.heard("c3", envelope("c3", 1795000000119))
    now = {"boot": BOOT, "n": 1795000000119}
    refused = [dict(now, ok=False, error="its number was used before")] * 3
    assert [body for _, body in obeyed(commands)] == refused
    commands.heard("c4", envelope("c4", 1795000000500, boot="6-0000abcd"))
    assert [body for _, body in obeyed(commands)] == [dict(now, ok=False, error="it is for another boot")]
    commands.heard("c5", envelope("c5", 1795000000120))
    assert obeyed(commands)[0][1]["ok"]
    other, _, _ = listening(KEY, "8-0000abcd")
    other.heard("c1", first)
    other.heard("c2", envelope("c2", 5, boot=""))  # a gateway that does not know it
    assert other.refused == 1
    answer, asked = obeyed(other)
    assert asked[1] == answer[1] == {"ok": False, "error": "it is for another boot", "boot": "8-0000abcd", "n": 0}


def test_what_had_to_wait_cannot_be_repeated_by_others():
    commands, _, _ = listening(KEY)
    commands.heard("c1", envelope("c1", 1, "identify", {"seconds": 1}))
    commands.heard("c2", envelope("c2", 2, "identify", {"seconds": 1}))
    assert "busy" in obeyed(commands)[1][1]["error"]
    commands.seen = []
    commands.heard("c2", envelope("c2", 2, "identify", {"seconds": 1}))
    assert "used before" in obeyed(commands)[0][1]["error"]


def test_forged_commands_do_not_keep_others_from_being_obeyed():
    commands, _, _ = listening(KEY)
    for number in range(50):
        commands.heard("f%d" % number, b'{"name":"restart"}')
    commands.heard("c1", envelope("c1", 1))
    assert ("c1", {"ok": True, "result": {"fine": True}}) in obeyed(commands)


def test_one_that_is_being_done_is_not_begun_again():
    commands, _, _ = listening()
    answers = []

    async def main():
        async def answer(command_id, *payload):
            answers.append((command_id, json.loads(b"".join(payload))["ok"]))

        async def slow(name, args):
            commands.heard("again", b'{"name":"slow"}')
            await asyncio.sleep(5)

        commands.heard("first", b'{"name":"slow"}')
        commands._orders._do = slow
        while commands.waiting:
            await commands.obey(answer)

    asyncio.run(main())
    assert answers == [("first", True), ("again", False)]


def test_a_restart_is_answered_first():
    answers, reasons = commanded(b'{"name":"restart"}')
    assert answers[0][1]["ok"] and reasons == ["told to"]


def test_whatever_is_asked_is_answered():
    answers, _ = commanded(b"{", b'{"name":"identify","args":{"seconds":"x"}}', b'{"name":"' + b"x" * 500 + b'"}')
    assert [(name, body["ok"]) for name, body in answers] == [("c%d" % place, False) for place in (0, 0, 1, 2)]
    assert all([len(body["error"]) <= 180 for _, body in answers])
    for value in ({"a": 1, "b": {"c": [None, "d"]}}, {}, None, [1], "e", 2.5):
        assert json.loads(b"".join(orders.result(value)) + b"}") == {"ok": True, "result": value}


def test_a_module_that_was_forgotten_is_loaded_anew():
    from node import mdns

    forget("node.mdns")
    del mdns
    from node import mdns as again

    assert again.answers(b"") == []
    assert "node.json" not in os.listdir()
