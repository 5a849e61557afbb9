"""/files: what is too large for JSON. Downloads with ranges; uploads that go on where they broke off.

Uploads follow the IETF draft "Resumable Uploads for HTTP" (httpbis, 12): POST /files begins one, HEAD on its Location
tells the offset, PATCH (or PUT) with Upload-Offset goes on, DELETE ends it. Interim responses (104) are not sent.
"""

import errno
import logging
import re
from base64 import b64decode, b64encode
from binascii import Error as NotBase64
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from email.message import Message

from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route

from gateway.access.audit import Audit
from gateway.access.policy import Plain, allow
from gateway.access.principal import Principal, Scope
from gateway.clock import Clock
from gateway.files.entry import FileEntry, link
from gateway.files.errors import (
    FileError,
    FileMissing,
    FileNotComplete,
    FileTooLarge,
    Interrupted,
    NoRoom,
    UploadComplete,
    WrongHash,
    WrongLength,
    WrongOffset,
)
from gateway.files.files import Files
from gateway.store.errors import StoreError, StoreFull
from gateway.web.bodies import BodyLimit

log = logging.getLogger(__name__)

FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
PIECE_S = 30.0
"""A sender that is silent for longer has lost its connection."""
PARTIAL = "application/partial-upload"
PROBLEM = "https://iana.org/assignments/http-problem-types#"
NUMBER = re.compile(r"\d{1,15}")
SHA256 = re.compile(r"(?:^|,)\s*sha-256=:([A-Za-z0-9+/]{43}=):")
SHOWN_TYPES = frozenset({"image/png", "text/plain"})
"""What a browser may show by itself; everything else it saves."""
STATUS: dict[type[FileError], int] = {
    FileMissing: 404,
    FileNotComplete: 409,
    FileTooLarge: 413,
    NoRoom: 507,
    WrongOffset: 409,
    WrongLength: 400,
    UploadComplete: 400,
    WrongHash: 422,
    Interrupted: 409,
}
PROBLEMS: dict[type[FileError], str] = {
    WrongOffset: "mismatching-upload-offset",
    WrongLength: "inconsistent-upload-length",
    UploadComplete: "completed-upload",
}

Endpoint = Callable[[Request], Awaitable[Response]]


class FileRoutes:
    """The routes of files, and in `limits` what the guard has to know of their bodies."""

    def __init__(self, files: Files, audit: Audit, clock: Clock, plain: Plain = Plain.READ) -> None:
        self._files, self._audit, self._clock, self._plain = files, audit, clock, plain

    @property
    def limits(self) -> Mapping[str, BodyLimit]:
        """Bodies as they come, by the beginning of the path."""
        return {"/files": BodyLimit(self._files.limits.file_bytes, PIECE_S, streamed=True)}

    def routes(self) -> list[Route]:
        """What to add to the app; all of it needs a principal."""
        each: dict[str, Endpoint] = {
            "GET": self.download,
            "HEAD": self.head,
            "PATCH": self.resume,
            "PUT": self.resume,
            "DELETE": self.delete,
        }
        many: dict[str, Endpoint] = {"POST": self.begin, "OPTIONS": self.options}
        return [
            Route("/files", _by_method(many), methods=list(many)),
            Route("/files/{file_id}", _by_method(each), methods=list(each)),
        ]

    async def download(self, request: Request) -> Response:
        """A complete file, or ranges of it; 404 for whatever is not the caller's."""
        return await self._served(request, "download_file", self._download)

    async def head(self, request: Request) -> Response:
        """What GET would say; of an upload, how far it is."""
        return await self._served(request, "download_file", self._head)

    async def begin(self, request: Request) -> Response:
        """Begin an upload; where Upload-Complete is not `?0` the body is the whole file."""
        return await self._served(request, "upload_file", self._begin, _file_name(request))

    async def resume(self, request: Request) -> Response:
        """The next bytes of an upload."""
        return await self._served(request, "append_file", self._resume)

    async def delete(self, request: Request) -> Response:
        """End an upload, or remove a file before its time."""
        return await self._served(request, "remove_file", self._delete, request.path_params["file_id"])

    async def options(self, request: Request) -> Response:
        """What uploads are like here."""
        headers = {"accept-patch": PARTIAL, "allow": "POST, OPTIONS", "upload-limit": self._limit()}
        return Response(status_code=204, headers=headers)

    async def _download(self, request: Request) -> Response:
        file_id, owner = _addressed(request)
        entry, path = await self._files.fetch(file_id, owner)
        headers = _described(entry)
        if request.headers.get("if-none-match") in {headers["etag"], "*"}:
            return Response(status_code=304, headers=headers)
        how = "inline" if entry.media_type in SHOWN_TYPES else "attachment"
        return FileResponse(
            path, headers=headers, media_type=entry.media_type, filename=entry.name, content_disposition_type=how
        )

    async def _head(self, request: Request) -> Response:
        entry, offset = await self._files.offset(*_addressed(request))
        if entry.complete:
            answer = await self._download(request)
            entry, offset = await self._files.offset(*_addressed(request))
        else:
            answer = Response(status_code=204)
        answer.headers.update(self._progress(entry, offset))
        return answer

    async def _begin(self, request: Request) -> Response:
        complete = _flag(request, "upload-complete") is not False
        size = _number(request, "upload-length")
        body = _number(request, "content-length")
        if complete and body is not None:
            if size not in {None, body}:
                raise WrongLength(f"{body} bytes are sent and {size} were declared; they are to be the whole file")
            size = body
        entry = await self._files.begin(
            _file_name(request),
            request.headers.get("content-type", ""),
            owner=request.state.principal.key,
            size_bytes=size,
            sha256=_declared_hash(request),
        )
        try:
            entry = await self._append(request, entry.file_id, 0, complete=complete)
        except (FileError, ClientDisconnect, OSError):
            # Whoever sent it never heard of the new address, so it cannot be resumed.
            await self._removed(entry.file_id)
            raise
        return await self._sent(entry)

    async def _resume(self, request: Request) -> Response:
        offset, complete = _number(request, "upload-offset"), _flag(request, "upload-complete")
        if request.method == "PATCH" and request.headers.get("content-type", "").partition(";")[0] != PARTIAL:
            return JSONResponse(
                _error("type", f"send the next bytes as {PARTIAL}"), 415, headers={"accept-patch": PARTIAL}
            )
        if offset is None or complete is None:
            text = "say where these bytes belong (Upload-Offset: N) and whether they are the last (Upload-Complete: ?1)"
            return JSONResponse(_error("headers", text), 400)
        return await self._sent(await self._append(request, request.path_params["file_id"], offset, complete=complete))

    async def _append(self, request: Request, file_id: str, offset: int, *, complete: bool) -> FileEntry:
        size, body = _number(request, "upload-length"), _number(request, "content-length")
        if complete and body is not None:
            if size not in {None, offset + body}:
                raise WrongLength(f"bytes {offset} to {offset + body} are no end of {size} bytes")
            size = offset + body
        owner = _addressed_owner(request.state.principal)
        return await self._files.append(file_id, owner, offset, _chunks(request), complete=complete, size_bytes=size)

    async def _delete(self, request: Request) -> Response:
        await self._files.remove(*_addressed(request))
        return Response(status_code=204)

    async def _sent(self, entry: FileEntry) -> Response:
        """What became of bytes that were sent."""
        entry, offset = await self._files.offset(entry.file_id, None)
        headers = self._progress(entry, offset) | {"location": link(entry.file_id)}
        if not entry.complete:
            return Response(status_code=201 if offset == 0 else 204, headers=headers)
        said = {
            "file_id": entry.file_id,
            "name": entry.name,
            "media_type": entry.media_type,
            "size_bytes": entry.size_bytes,
            "sha256": entry.sha256,
            "expires": entry.expires.isoformat(timespec="seconds"),
            "link": link(entry.file_id),
        }
        return JSONResponse(said, 201, headers=headers | _described(entry))

    async def _removed(self, file_id: str) -> None:
        try:
            await self._files.remove(file_id, None)
        except FileMissing:
            return  # its bytes were refused and are gone already

    async def _served(self, request: Request, action: str, work: Endpoint, target: str = "") -> Response:
        """The answer, or why there is none."""
        if refused := await self._refused(request, action, target):
            return refused
        try:
            return await work(request)
        except FileError as error:
            return self._refusal(error)
        except ClientDisconnect:
            return Response(status_code=400)
        except (StoreError, OSError) as error:
            log.warning("%s %s: %s", request.method, request.url.path, error)
            full = isinstance(error, StoreFull) or getattr(error, "errno", None) in FULL
            text = "the medium is full; make room" if full else "files cannot be kept at the moment; try again"
            return JSONResponse(_error("storage", text), 507 if full else 503)

    def _refusal(self, error: FileError) -> Response:
        status = next(code for kind, code in STATUS.items() if isinstance(error, kind))
        headers = {"upload-limit": self._limit()} if status == 413 else {}
        if isinstance(error, WrongOffset | FileNotComplete | Interrupted):
            headers |= {"upload-offset": str(error.offset), "upload-complete": "?0"}
        if isinstance(error, WrongHash):
            headers["upload-complete"] = "?1"
        kind = PROBLEMS.get(type(error))
        if kind is None:
            return JSONResponse(_error(type(error).__name__, str(error)), status, headers=headers)
        body = {"type": PROBLEM + kind, "title": str(error), "status": status}
        if isinstance(error, WrongOffset):
            body |= {"expected-offset": error.offset, "provided-offset": error.given}
        return JSONResponse(body, status, headers=headers, media_type="application/problem+json")

    async def _refused(self, request: Request, action: str, target: str) -> Response | None:
        principal = request.state.principal
        verdict = allow(principal, action, secure=request.state.secure, plain=self._plain)
        await self._audit.record(principal, action, target, verdict)
        return None if verdict.allowed else JSONResponse(_error("forbidden", verdict.reason), 403)

    def _progress(self, entry: FileEntry, offset: int) -> dict[str, str]:
        headers = {
            "upload-offset": str(offset),
            "upload-complete": "?1" if entry.complete else "?0",
            "upload-limit": self._limit(entry),
        }
        return headers | ({} if entry.size_bytes is None else {"upload-length": str(entry.size_bytes)})

    def _limit(self, entry: FileEntry | None = None) -> str:
        limits = [f"max-size={self._files.limits.file_bytes}"]
        if entry is not None:
            limits.append(f"max-age={max(0, int((entry.expires - self._clock.now()).total_seconds()))}")
        return ", ".join(limits)


def _addressed_owner(principal: Principal) -> str | None:
    return None if principal.scope >= Scope.ADMIN else principal.key


def _addressed(request: Request) -> tuple[str, str | None]:
    return request.path_params["file_id"], _addressed_owner(request.state.principal)


def _by_method(endpoints: dict[str, Endpoint]) -> Endpoint:
    async def endpoint(request: Request) -> Response:
        return await endpoints[request.method](request)

    return endpoint


async def _chunks(request: Request) -> AsyncIterator[bytes]:
    async for chunk in request.stream():
        yield chunk


def _described(entry: FileEntry) -> dict[str, str]:
    digest = b64encode(bytes.fromhex(entry.sha256)).decode()
    return {"etag": f'"{entry.sha256}"', "repr-digest": f"sha-256=:{digest}:", "cache-control": "private, no-cache"}


def _error(kind: str, text: str) -> dict[str, str]:
    return {"error": kind, "error_description": text}


def _number(request: Request, header: str) -> int | None:
    """A header's number; None where it is none: such a header counts as not sent."""
    text = request.headers.get(header, "").strip()
    return int(text) if NUMBER.fullmatch(text) else None


def _flag(request: Request, header: str) -> bool | None:
    return {"?1": True, "?0": False}.get(request.headers.get(header, "").strip())


def _declared_hash(request: Request) -> str:
    """The SHA-256 of Repr-Digest; "" without one, WrongHash where it cannot be read."""
    text = request.headers.get("repr-digest", "")
    if not (match := SHA256.search(text)):
        if "sha-256" in text:
            raise WrongHash(f"{text[:80]!r} is no digest: give Repr-Digest: sha-256=:BASE64:")
        return ""
    try:
        return b64decode(match[1], validate=True).hex()
    except NotBase64 as error:
        raise WrongHash(f"{match[1]!r} is no base64: give Repr-Digest: sha-256=:BASE64:") from error


def _file_name(request: Request) -> str:
    """The file's name in Content-Disposition, as it was sent."""
    header = Message()
    header["content-disposition"] = request.headers.get("content-disposition", "")
    return header.get_filename("") or "upload"
