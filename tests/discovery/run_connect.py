"""`gateway connect` as a process without the whole command line: its options are the one argument, as JSON."""

import asyncio
import json
import logging
import sys

from gateway.discovery.connect import ConnectOptions, run_connect

logging.basicConfig(level=logging.INFO, format="%(message)s")
logging.getLogger("httpx2").setLevel(logging.WARNING)
sys.exit(asyncio.run(run_connect(ConnectOptions(**json.loads(sys.argv[1])))))
