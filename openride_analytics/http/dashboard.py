"""The dashboard at `/` and the page to try the API at `/docs`: the files of `openride_analytics/dashboard/`.

They ask the API like anybody else, and need nothing from elsewhere. The pages name their files by a digest of them all, so
these may be kept for ever and a new release shows at once.
"""

import gzip
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from html import escape
from importlib.resources import files
from typing import Any, Final

from litestar import Request, Response, get
from litestar.datastructures import State
from litestar.exceptions import NotFoundException
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath

from openride_analytics.config import Analytics
from openride_analytics.http.access import OPEN

_PAGES: Final = {"/": "index.html", "/docs": "docs.html"}
_TYPES: Final = {
    "css": "text/css",
    "html": "text/html",
    "js": "text/javascript",
    "svg": "image/svg+xml",
}


@dataclass(frozen=True)
class _File:
    content: bytes
    packed: bytes
    media_type: str
    etag: str

    @staticmethod
    def of(name: str, content: bytes) -> "_File":
        return _File(
            content,
            gzip.compress(content, 9, mtime=0),
            _TYPES[name.rpartition(".")[2]],
            sha256(content).hexdigest()[:16],
        )

    def response(self, request: Request[Any, Any, State], cache_control: str) -> Response[bytes]:
        """The file as the client takes it; 304 where it has it already."""
        headers = {
            "Cache-Control": cache_control,
            "ETag": f'W/"{self.etag}"',
            "Vary": "Accept-Encoding",
        }
        known = ",".join(request.headers.getall("if-none-match", []))
        if f'"{self.etag}"' in known or known.strip() == "*":
            return Response(b"", status_code=304, headers=headers)
        if _takes_gzip(request.headers.get("accept-encoding", "")):
            headers["Content-Encoding"] = "gzip"
            return Response(self.packed, media_type=self.media_type, headers=headers)
        return Response(self.content, media_type=self.media_type, headers=headers)


def handlers(analytics: Analytics) -> list[HTTPRouteHandler]:
    """The pages and their files, read once. They are no part of the API, so its document does not list them."""
    contents = {
        entry.name: entry.read_bytes()
        for entry in files("openride_analytics").joinpath("dashboard").iterdir()
        if entry.name.rpartition(".")[2] in _TYPES
    }
    digest = sha256()
    for name, content in sorted(contents.items()):
        digest.update(name.encode() + b"\0" + content + b"\0")
    version = digest.hexdigest()[:16]
    filled = {"version": version, "timezone": analytics.timezone, "currency": analytics.currency}
    pages = {path: _page(name, contents.pop(name), filled) for path, name in _PAGES.items()}
    served = {name: _File.of(name, content) for name, content in contents.items()}

    @get([*_PAGES], name="dashboard", opt=OPEN, include_in_schema=False)
    async def page(request: Request[Any, Any, State]) -> Response[bytes]:
        return pages[request.url.path].response(request, "no-cache")

    @get("/dashboard/{release:str}/{name:str}", name="dashboard_file", opt=OPEN, include_in_schema=False)
    async def file(
        request: Request[Any, Any, State], release: FromPath[str], name: FromPath[str]
    ) -> Response[bytes]:
        if name not in served:
            raise NotFoundException
        # While instances of two releases answer, a page of one may ask the other: it gets what is there, not kept.
        kept = "public, max-age=31536000, immutable" if release == version else "no-store"
        return served[name].response(request, kept)

    return [page, file]


def _page(name: str, content: bytes, filled: Mapping[str, str]) -> _File:
    html = content.decode()
    for placeholder, value in filled.items():
        html = html.replace(f"{{{placeholder}}}", escape(value))
    return _File.of(name, html.encode())


def _takes_gzip(accepted: str) -> bool:
    """`gzip` among the encodings, and not with a weight of 0."""
    for part in accepted.split(","):
        coding, _, weight = part.replace(" ", "").partition(";")
        if coding == "gzip":
            return weight not in {"q=0", "q=0.0", "q=0.00", "q=0.000"}
    return False
