"""What mosquitto is told. Pure text; every line that differs from its defaults says why."""

from pathlib import Path

from gateway.broker.errors import BrokerError
from gateway.hosts import is_loopback

MAX_INFLIGHT = 2000
"""Messages it sends without being acknowledged: above a batch, or each batch would wait for the flush timer."""
DATABASE = "mosquitto.db"


def mosquitto_conf(host: str, port: int, folder: Path, user: str, queue_mb: int = 64) -> str:
    """The configuration file for one listener on loopback, its data in `folder`. BrokerError off loopback.

    `user` is who runs it: without this line mosquitto would change away from root and lose the parent-death signal.
    """
    if not is_loopback(host):
        raise BrokerError(
            f"a broker without credentials listens on loopback only, not on {host}: use 127.0.0.1, or run a broker "
            'of your own with passwords and set broker = "external"'
        )
    if any(ord(c) < 32 for c in str(folder)):
        raise BrokerError(f"the folder {str(folder)!r} cannot be written into a configuration file: rename it")
    return f"""\
# Written at each start of the gateway; changes are lost.
listener {port} {host}
allow_anonymous true
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

# Nobody reads statistics here, and a line for each connection would only wear the card.
sys_interval 0
connection_messages false
set_tcp_nodelay true
log_dest stderr
log_timestamp false
log_type error
log_type warning
log_type notice
log_type information
"""
