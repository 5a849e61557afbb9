"""/files/firmware: what an open offer lets a node download. The node shows no token but a mac of its own key.

    GET /files/firmware/{offer}/{path}    Range: bytes=N-    Authorization: Node {device}:{mac}

The files are public to whoever is offered them, and each is checked by its hash: plain HTTP will do, as for reading.
"""

import asyncio
import os

from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route

from gateway.nodes.ota.offer import Offers
from gateway.nodes.ota.shelf import Shelf

PREFIX = "/files/firmware/"


class FirmwareRoutes:
    """The route of an update. `bearer` is for the guard, which lets nobody else so far."""

    def __init__(self, shelf: Shelf, offers: Offers) -> None:
        self._shelf, self._offers = shelf, offers

    def routes(self) -> list[Route]:
        """What to add to the app."""
        return [Route(f"{PREFIX}{{offer}}/{{path:path}}", self.download, methods=["GET", "HEAD"])]

    def bearer(self, path: str, header: str) -> str | None:
        """The node that an Authorization header proves to be, for this path; None where it does not."""
        offer = path.removeprefix(PREFIX).partition("/")[0]
        return self._offers.bearer(offer, header) if path.startswith(PREFIX) else None

    async def download(self, request: Request) -> Response:
        """A file of the offered bundle, whole or from somewhere on; 404 where the offer is not open for this node."""
        offer, path = request.path_params["offer"], request.path_params["path"]
        device = self._offers.bearer(offer, request.headers.get("authorization", ""))
        if device is None:  # the guard has seen to it; whoever comes another way gets nothing either
            return _refused(401, "unauthorized", "send `Authorization: Node DEVICE:MAC` for this offer")
        found = self._offers.find(offer, device)
        if found is None:
            return _refused(404, "offer", f"no offer {offer[:40]!a} is open for {device}; wait for another one")
        part = self._shelf.part(found.manifest_sha256, path)
        if part is None:
            return _refused(404, "path", f"{path[:80]!a} is no file of this offer; its manifest names them")
        file, about = part
        try:
            stat = await asyncio.to_thread(os.stat, file)
        except OSError:
            return _refused(404, "path", f"{path[:80]!a} is gone; wait for another offer")
        headers = {"etag": f'"{about.sha256}"', "cache-control": "private, no-cache"}
        return FileResponse(file, headers=headers, media_type="application/octet-stream", stat_result=stat)


def _refused(status: int, error: str, text: str) -> Response:
    return JSONResponse({"error": error, "error_description": text}, status)
