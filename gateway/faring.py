"""How the gateway is doing: alive, ready, its figures, what is wrong with it, what it wears."""

import asyncio
from functools import partial

from gateway import __version__, wear
from gateway.control import StatusView, WearView
from gateway.core import Core
from gateway.health import Metric, prometheus, resident_bytes
from gateway.intake import Intake
from gateway.mcp.troubles import Troubles, disk_low
from gateway.store import queries
from gateway.wear import Wear
from gateway.web import app as web

WELL_LAG_S = 60.0
"""Readings that wait longer than this to be stored mean that the gateway is not well."""


def troubles(core: Core, intake: Intake) -> Troubles:
    """What is wrong with the gateway itself, for those who ask what is wrong."""
    mqtt, counts = intake.mqtt, intake.pipeline.counts
    lost = "the connection to the broker is lost: no node is heard until it is back"
    return Troubles(
        core.clock,
        {
            "store": lambda: counts.failing,
            "broker": lambda: "" if mqtt is None or mqtt.connected else lost,
            "flood": lambda: "" if mqtt is None else mqtt.door.trouble(asyncio.get_running_loop().time()),
            "disk": partial(disk_low, core.folder, core.config.store.warn_free_mb),
        },
    )


def watch(core: Core, intake: Intake) -> web.Watch:
    """Liveness from progress: well is who stores what came in."""
    pipeline, mqtt = intake.pipeline, intake.mqtt
    now_s = asyncio.get_running_loop().time

    def live() -> web.Probe:
        return web.Probe(pipeline.lag_s < WELL_LAG_S, {})

    def ready() -> web.Probe:
        connected = mqtt is None or mqtt.connected
        detail = {"broker_connected": connected, "pending": pipeline.pending, "store": pipeline.counts.failing or "ok"}
        return web.Probe(connected and not pipeline.counts.failing, detail)

    metrics = [
        Metric("gateway_uptime_seconds", "Since the start", lambda: now_s() - core.started_s),
        Metric("gateway_memory_resident_bytes", "RAM of this process", resident_bytes),
        Metric("gateway_readings_stored_total", "Committed", lambda: pipeline.counts.stored, counter=True),
        Metric("gateway_duplicates_total", "Delivered again, stored once", lambda: pipeline.counts.duplicates, True),
        Metric("gateway_crowded_total", "Readings of too many series", lambda: pipeline.counts.refused, True),
        Metric("gateway_dropped_total", "Local readings without room", lambda: pipeline.counts.dropped, True),
        Metric("gateway_batches_total", "Commits", lambda: pipeline.counts.batches, True),
        Metric("gateway_store_failures_total", "Commits that failed", lambda: pipeline.counts.failures, True),
        Metric("gateway_pending_messages", "Not on disk yet", lambda: pipeline.pending),
        Metric(
            "gateway_bytes_written_total", "To the data's device", lambda: wear.written_bytes(core.written[0]), True
        ),
        Metric("gateway_hot_rows", "Readings that are not sealed yet", lambda: core.store.known.hot_rows),
        Metric("gateway_segments", "Sealed segments", lambda: len(core.store.segments)),
        Metric("gateway_requests_refused_total", "At the door", core.desk.refused.total, True),
        Metric("gateway_pairing_refused_total", "Codes not taken", core.desk.pairing.refused.total, True),
        Metric("gateway_lag_seconds", "Age of the oldest message not on disk", lambda: pipeline.lag_s),
    ]
    return web.Watch(live, ready, lambda: prometheus([*metrics, *intake.metrics()]))


def _wear(core: Core, intake: Intake) -> Wear:
    counter, before = core.written
    elapsed_s = asyncio.get_running_loop().time() - core.started_s
    stored = intake.pipeline.counts.stored
    rating_tb = core.config.store.card_rating_tb
    return Wear(wear.described(counter), wear.written_bytes(counter) - before, elapsed_s, stored, rating_tb)


async def status(core: Core, intake: Intake) -> StatusView:
    counts = await queries.counts(core.store)
    return StatusView(
        gateway_id=core.identity.gateway_id,
        fingerprint=core.identity.fingerprint,
        version=__version__,
        uptime_s=round(asyncio.get_running_loop().time() - core.started_s, 1),
        broker=str(intake.broker),
        readings=counts.readings,
        devices=len(core.registry.devices()),
        data_bytes=counts.bytes_on_disk,
        free_bytes=counts.bytes_free,
        wear=WearView.of(_wear(core, intake)),
    )
