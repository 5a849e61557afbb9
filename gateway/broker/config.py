"""What mosquitto is told. Pure text; every line that differs from its defaults says why."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from gateway.access.logins import topics_of
from gateway.broker.errors import BrokerError
from gateway.hosts import is_loopback
from gateway.store.login_rows import BrokerLogin

MAX_INFLIGHT = 2000
"""Messages it sends without being acknowledged: above a batch, or each batch would wait for the flush timer."""
MAX_CONNECTIONS, MEMORY_MB = 8192, 512
DATABASE = "mosquitto.db"
PASSWORDS, TOPICS = "passwords", "topics"
CERTIFICATE, KEY = "server.pem", "server.key"
EVERYWHERE = "0.0.0.0"  # noqa: S104 - only ever with logins
OURS = "@gateway"
"""The gateway's own user name; no device's has such a sign."""


@dataclass(frozen=True, slots=True)
class Doors:
    """Where the broker listens: `host` ("" is every address) and `port` for devices, `tls_port` too where it is not 0,
    and `inner_port`, where it is not 0, on loopback for the gateway itself. `guarded`: nobody comes in without a
    login."""

    host: str
    port: int
    inner_port: int = 0
    tls_port: int = 0
    guarded: bool = False


def mosquitto_conf(doors: Doors, folder: Path, user: str, queue_mb: int = 64) -> str:
    """The configuration file, data in `folder`. BrokerError where it would let anybody in from elsewhere.

    `user` is who runs it: without this line mosquitto would change away from root and lose the parent-death signal.
    """
    if not doors.guarded and not is_loopback(doors.host):
        raise BrokerError(f"a broker without logins listens on loopback only, not on {doors.host or 'every address'}")
    if any(ord(c) < 32 for c in str(folder)):
        raise BrokerError(f"the folder {str(folder)!r} cannot be written into a configuration file: rename it")
    return f"""\
# Written at each start of the gateway; changes are lost.
{_listeners(doors, folder)}
user {user}

# Minimal senders depend on it while the gateway is away; autosave bounds what a killed broker forgets.
persistence true
persistence_location {folder}/
persistence_file {DATABASE}
autosave_interval 300
persistent_client_expiration 14d

# By default 20 in flight and 1,000 queued: too few for a batch, and for an hour's absence.
max_inflight_messages {MAX_INFLIGHT}
max_queued_messages 0
# Devices of other makers often publish with QoS 0, which is kept for nobody otherwise.
queue_qos0_messages true
max_queued_bytes {queue_mb * 1024 * 1024}
message_size_limit 131072
# Far more than a full queue takes: whoever fills others must not take the machine's.
memory_limit {MEMORY_MB * 1024 * 1024}

# Nobody reads statistics here. Who comes and goes is read by the gateway, and written nowhere.
sys_interval 0
connection_messages true
set_tcp_nodelay true
log_dest stderr
log_timestamp false
log_type error
log_type warning
log_type notice
log_type information
"""


def _listeners(doors: Doors, folder: Path) -> str:
    # The name of a session is that of its login: or who knows another's could take it over, with all that waits in it.
    apart = "use_username_as_clientid true\n" if doors.guarded else ""
    # Fewer than it may have files open, or whoever only connects keeps it from saving.
    apart += f"max_connections {MAX_CONNECTIONS}\n"
    lines = f"listener {doors.port}{' ' if doors.host else ''}{doors.host}\n{apart}"
    if doors.tls_port:
        lines += f"listener {doors.tls_port}{' ' if doors.host else ''}{doors.host}\n{apart}"
        lines += f"certfile {folder}/{CERTIFICATE}\nkeyfile {folder}/{KEY}\ntls_version tlsv1.2\n"
    # The gateway's own, with as many sessions as it likes; the last one, for it tells that all are open.
    if doors.inner_port:
        lines += f"listener {doors.inner_port} 127.0.0.1\n"
    if not doors.guarded:
        return f"{lines}allow_anonymous true"
    return f"{lines}allow_anonymous false\npassword_file {folder}/{PASSWORDS}\nacl_file {folder}/{TOPICS}"


def password_file(ours: str, logins: Iterable[BrokerLogin]) -> str:
    """One line each, `ours` (a hash) first."""
    return "".join(f"{user}:{hashed}\n" for user, hashed in [(OURS, ours), *((row.user, row.hash) for row in logins)])


def topic_file(logins: Iterable[BrokerLogin]) -> str:
    """What each may write and read; whatever is not there is refused. A subscription to more is sent nothing more."""
    parts = [f"user {OURS}\ntopic readwrite #\n"]
    for row in logins:
        write, read = topics_of(row)
        lines = [f"topic write {topic}\n" for topic in write] + [f"topic read {topic}\n" for topic in read]
        parts.append(f"user {row.user}\n{''.join(lines)}")
    return "\n".join(parts)
