"""How the hub of the tests answers: as the real one does.

Read in huggingface_hub 1.33 (file_download.py, utils/_http.py, hf_api.py) and in the answers of huggingface.co: small files
come from the hub itself; large ones by a redirect (302) to a CDN on another host, with a signed address that is not for ever
and without the token; access is refused by status and X-Error-Code.
"""

from __future__ import annotations

import hashlib
import json
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

if TYPE_CHECKING:
    from support.hub import Hub

LARGE = 50_000  # bytes from which a file is kept on the CDN (LFS)
SIGNATURE = "Signature=of-the-cdn"  # in the addresses that the hub gives out: a credential, too


@dataclass
class Repository:
    """Folders by commit, the commits that its branches and tags stand for, and who may read it."""

    commits: dict[str, Path] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    access: str = "public"  # gated: everybody sees that it is there; private: nobody does
    readers: set[str] = field(default_factory=set)  # tokens that may read it where it is not public


@dataclass
class Asked:
    """A request as it came in, and how many bytes of body went out."""

    host: str  # hub or cdn
    method: str
    path: str
    range: str | None
    token: str | None
    sent: int = 0

    @property
    def file(self) -> str:
        return self.path.rpartition("/")[2]


class _Refused(Exception):
    """An answer that is no success."""

    def __init__(self, status: int, code: str, message: str) -> None:
        self.status, self.code, self.message = status, code, message


class Answers(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub
    host: str

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ") or None
        path = unquote(urlsplit(self.path).path)
        self.asked = Asked(self.host, self.command, path, self.headers.get("Range"), token)
        self.hub.asked.append(self.asked)
        try:
            if self.hub.refusal:
                raise _Refused(self.hub.refusal[0], "", self.hub.refusal[1])
            self.answer()
        except _Refused as refused:
            body = json.dumps({"error": refused.message}).encode()
            self.reply(refused.status, body, {"X-Error-Code": refused.code, "X-Error-Message": refused.message})

    @abstractmethod
    def answer(self) -> None:
        """What this host of the hub gives."""

    def reply(
        self, status: int, body: bytes = b"", headers: Mapping[str, Any] | None = None, cut: int | None = None
    ) -> None:
        self.send_response(status)
        for key, value in {"Content-Length": len(body), **(headers or {})}.items():
            self.send_header(key, str(value))
        self.end_headers()
        if self.command == "HEAD":
            return
        self.asked.sent = len(body[:cut])
        self.wfile.write(body[:cut])
        if cut is not None:  # less than was promised, and the line goes dead
            self.wfile.flush()
            self.close_connection = True

    def file(self, data: bytes, headers: Mapping[str, Any]) -> None:
        """The file, or the part of it that was asked for. What is asked for to the end may break off."""
        first, _, last = (self.asked.range or "bytes=0-").removeprefix("bytes=").partition("-")
        start, end = int(first), min(int(last or len(data)), len(data) - 1)
        cuts = [] if last or self.command == "HEAD" else self.hub.cut.get(self.asked.file, [])
        cut, headers = cuts.pop(0) if cuts else None, {"Accept-Ranges": "bytes", **headers}
        if not self.asked.range:
            return self.reply(200, data, headers, cut)
        if start >= len(data):
            return self.reply(416, b"", {"Content-Range": f"bytes */{len(data)}"})
        self.reply(206, data[start : end + 1], {**headers, "Content-Range": f"bytes {start}-{end}/{len(data)}"}, cut)

    def log_message(self, *args: object) -> None:
        """Quiet."""


class HubAnswers(Answers):
    """huggingface.co: what is there, small files, and the way to the large ones."""

    host = "hub"

    def answer(self) -> None:
        parts = self.asked.path.strip("/").split("/")
        if parts[:2] == ["api", "models"]:
            return self.about("/".join(parts[2:4]), parts[4:])
        if len(parts) > 4 and parts[2] == "resolve":
            return self.resolve("/".join(parts[:2]), parts[3], "/".join(parts[4:]))
        raise _Refused(404, "", "Sorry, we can't find the page you are looking for.")

    def about(self, name: str, rest: list[str]) -> None:
        """The API: /api/models/NAME, .../revision/REF, .../tree/REF. It tells of a gated repository, too."""
        repository = self.repository(name)
        commit, folder = self.state(repository, rest[1] if len(rest) > 1 else "main")
        names = sorted(f.relative_to(folder).as_posix() for f in folder.rglob("*") if f.is_file())
        found: Any = [_entry(folder, name, self.hub.sizes) for name in names]
        if rest[:1] != ["tree"]:
            gated = "manual" if repository.access == "gated" else False
            found = {
                "_id": commit[:24], "id": name, "modelId": name, "sha": commit, "private": repository.access == "private",
                "gated": gated, "disabled": False, "downloads": 0, "likes": 0, "tags": [],
                "siblings": [{"rfilename": name} for name in names],
            }  # fmt: skip
        self.reply(200, json.dumps(found).encode(), {"Content-Type": "application/json"})

    def resolve(self, name: str, ref: str, path: str) -> None:
        repository = self.repository(name)
        if repository.access == "gated" and self.asked.token not in repository.readers:
            restricted = f"Access to model {name} is restricted"
            if not self.asked.token:
                raise _Refused(
                    401, "GatedRepo", f"{restricted}. You must have access to it and be authenticated to access it."
                )
            raise _Refused(403, "GatedRepo", f"{restricted} and you are not in the authorized list.")
        commit, folder = self.state(repository, ref)
        if not (folder / path).is_file():
            raise _Refused(404, "EntryNotFound", "Entry not found")
        data, headers = (folder / path).read_bytes(), {"X-Repo-Commit": commit}
        if len(data) < LARGE:
            return self.file(data, {**headers, "ETag": f'"{_git_sha(data)}"'})
        linked = {"X-Linked-Etag": f'"{hashlib.sha256(data).hexdigest()}"', "X-Linked-Size": len(data)}
        address = f"{self.hub.cdn}/{name}/{commit}/{path}?Expires=1&{SIGNATURE}"
        self.reply(302, b"", {**headers, **linked, "Location": address})

    def repository(self, name: str) -> Repository:
        """The repository as far as this caller may know of it."""
        token = self.asked.token
        if token and token not in self.hub.tokens:
            raise _Refused(401, "", "Invalid credentials in Authorization header")
        found = self.hub.repositories.get(name)
        if found is None or (found.access == "private" and token not in found.readers):
            if not token:
                raise _Refused(401, "RepoNotFound", "Invalid username or password.")
            raise _Refused(404, "RepoNotFound", "Repository not found")
        return found

    def state(self, repository: Repository, ref: str) -> tuple[str, Path]:
        commit = repository.refs.get(ref, ref)
        if commit not in repository.commits:
            raise _Refused(404, "RevisionNotFound", f"Invalid rev id: {ref}")
        return commit, repository.commits[commit]


class CdnAnswers(Answers):
    """Large files, to whoever has a signed address."""

    host = "cdn"

    def answer(self) -> None:
        if SIGNATURE not in self.path:
            raise _Refused(403, "", "MissingKey")
        owner, name, commit, *path = self.asked.path.strip("/").split("/")
        data = self.hub.repositories[f"{owner}/{name}"].commits[commit].joinpath(*path).read_bytes()
        self.file(data, {"ETag": f'"{hashlib.md5(data).hexdigest()}"'})


def _entry(folder: Path, name: str, sizes: Mapping[str, int]) -> dict[str, Any]:
    """A file as the tree lists it."""
    data = (folder / name).read_bytes()
    size = sizes.get(name, len(data))
    entry: dict[str, Any] = {"type": "file", "path": name, "size": size, "oid": _git_sha(data)}
    if len(data) >= LARGE:
        entry["lfs"] = {"oid": hashlib.sha256(data).hexdigest(), "size": size, "pointerSize": 132}
    return entry


def _git_sha(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
