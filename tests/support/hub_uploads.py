"""How the hub of the tests takes uploads: as the real one does without Xet.

Read in huggingface_hub 1.33 (hf_api.py, _commit_api.py, lfs.py): a repository is made, its card is checked, the hub says of
each file whether it is large (LFS), large ones go to another host by an address that the hub gives out, and a commit names
them all. What was sent before a break is not asked for again.
"""

from __future__ import annotations

import base64
import hashlib
import json
import tempfile
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from support.hub_answers import LARGE, Asked, CdnAnswers, HubAnswers

JSON = {"Content-Type": "application/json"}


class HubTakes(HubAnswers):
    """What makes a repository, and a commit in it."""

    def answer(self) -> None:
        if self.asked.path != "/api/whoami-v2":
            return super().answer()
        if self.asked.token not in self.hub.tokens:
            return self.reply(401, b'{"error": "Invalid username or password."}', JSON)
        role = "write" if self.asked.token in self.hub.writers else "read"
        self.reply(200, json.dumps({"name": "me", "auth": {"accessToken": {"role": role}}}).encode(), JSON)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        path = unquote(urlsplit(self.path).path).strip("/")
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ") or None
        self.asked = Asked(self.host, "POST", path, None, token)
        self.hub.asked.append(self.asked)
        if token not in self.hub.writers:
            return self.reply(403, b'{"error": "you may not write here"}', JSON)
        if self.hub.commits_fail and path.endswith("/commit/main"):
            self.hub.commits_fail -= 1
            return self.reply(503, b'{"error": "come back later"}', JSON)
        self.reply(200, json.dumps(self._taken(path, body)).encode(), JSON)

    def _taken(self, path: str, body: bytes) -> dict[str, Any]:
        given = [json.loads(line) for line in body.splitlines()]
        if path == "api/repos/create":
            return self._created(**given[0])
        if path == "api/validate-yaml":
            return {"warnings": [], "errors": []}
        if path.endswith(".git/info/lfs/objects/batch"):
            return {"transfer": "basic", "objects": [self._place(each) for each in given[0]["objects"]]}
        _, _, owner, name, what, _ = path.split("/")
        if what == "preupload":
            return {"files": [self._mode(file) for file in given[0]["files"]]}
        assert what == "commit", path
        return self._committed(f"{owner}/{name}", given)

    def _created(self, organization: str, name: str, visibility: str = "public", **_: Any) -> dict[str, Any]:
        full = f"{organization}/{name}"
        if full not in self.hub.repositories:
            self.hub.commit(full, Path(tempfile.mkdtemp(dir=self.hub.home)))
            self.hub.repositories[full].access = visibility
            self.hub.repositories[full].readers = set(self.hub.writers)
        return {"url": f"{self.hub.endpoint}/{full}"}

    def _mode(self, file: dict[str, Any]) -> dict[str, Any]:
        mode = "lfs" if file["size"] >= LARGE else "regular"
        return {"path": file["path"], "uploadMode": mode, "shouldIgnore": False}

    def _place(self, each: dict[str, Any]) -> dict[str, Any]:
        """Where to send a large file; nowhere if it is here."""
        if each["oid"] in self.hub.large:
            return each
        return {**each, "actions": {"upload": {"href": f"{self.hub.cdn}/{each['oid']}"}}}

    def _committed(self, name: str, lines: list[dict[str, Any]]) -> dict[str, Any]:
        """The files of the commit before, and what the lines say."""
        repository = self.hub.repositories[name]
        before, folder = repository.commits[repository.refs["main"]], Path(tempfile.mkdtemp(dir=self.hub.home))
        files = {f.relative_to(before).as_posix(): f.read_bytes() for f in before.rglob("*") if f.is_file()}
        for key, value in ((line["key"], line["value"]) for line in lines):
            if key == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif key == "lfsFile":
                files[value["path"]] = self.hub.large[value["oid"]]
            elif key == "deletedFile":
                del files[value["path"]]
        for path, data in files.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(data)
        commit = self.hub.commit(name, folder)
        return {"success": True, "commitOid": commit, "commitUrl": f"{self.hub.endpoint}/{name}/commit/{commit}"}


class CdnTakes(CdnAnswers):
    """Large files, to whoever has the address."""

    def do_PUT(self) -> None:
        data = self.rfile.read(int(self.headers["Content-Length"]))
        self.asked = Asked(self.host, "PUT", self.path, None, None)
        self.hub.asked.append(self.asked)
        assert hashlib.sha256(data).hexdigest() == self.asked.file
        self.hub.large[self.asked.file] = data
        self.reply(200)
