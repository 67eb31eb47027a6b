"""A local server with the Hub API that huggingface_hub 2.4 uses, for tests of uploads and downloads.

`requests` lists all requests of the client. Repositories are kept in memory, and a commit replaces the tree of files
atomically. Files are uploaded with LFS, as with the real Hub if hf_xet is disabled.
"""

import base64
import contextlib
import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import yaml

from gemma_lisa.checkpoints.hub_repository import files_of

ROOT = Path(__file__).resolve().parents[1]
TOKEN = "hf_of_the_tests"
# Owners of repositories that the token can write; others give status 403
WRITABLE = "org"
LFS_SUFFIXES = (".safetensors", ".png")


@dataclass
class Commit:
    """A commit of a repository: sha, message, and path -> content."""

    sha: str
    message: str
    files: dict[str, bytes]


@dataclass
class Repository:
    """All commits, from the first one, which the Hub creates, to the head."""

    private: bool
    commits: list[Commit] = field(default_factory=list)

    def commit(self, message: str, files: dict[str, bytes]) -> Commit:
        digest = hashlib.sha1(f"{len(self.commits)} {message} {sorted(files)}".encode())
        for content in files.values():
            digest.update(content)
        self.commits.append(Commit(digest.hexdigest(), message, files))
        return self.commits[-1]

    def at(self, revision: str) -> Commit | None:
        if revision == "main":
            return self.commits[-1]
        return next((commit for commit in self.commits if commit.sha == revision), None)


class HubServer(ThreadingHTTPServer):
    """The server. `break_after` interrupts every upload after this number of bytes."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repositories: dict[str, Repository] = {}
        self.objects: dict[str, bytes] = {}  # LFS, by sha256
        self.requests: list[str] = []
        self.break_after: int | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request, client_address):
        """Print nothing about a client that disconnected."""


class _Handler(BaseHTTPRequestHandler):
    server: HubServer
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self._answer()

    do_HEAD = do_POST = do_PUT = do_GET

    def log_message(self, *arguments):
        """Print nothing, because `requests` has all requests."""

    def _answer(self):
        path = unquote(urlsplit(self.path).path)
        self.server.requests.append(f"{self.command} {path}")
        parts = path.strip("/").split("/")
        if self.command == "PUT" and parts[0] == "lfs":
            self._store_object(parts[1])
            return
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if parts[:2] == ["api", "whoami-v2"]:
            if self._is_known():
                self._send(200, {"name": "tester", "type": "user", "orgs": [{"name": WRITABLE}]})
        elif parts[:3] == ["api", "repos", "create"]:
            if self._is_known():
                self._create(json.loads(body))
        elif parts[:2] == ["api", "validate-yaml"]:
            self._validate(json.loads(body)["content"])
        elif parts[:2] == ["api", "models"] and len(parts) >= 4:
            self._of_repository("/".join(parts[2:4]), parts[4:], body)
        elif path.endswith(".git/info/lfs/objects/batch"):
            if self._may_write("/".join(parts[:2]).removesuffix(".git")):
                self._batch(json.loads(body))
        elif len(parts) >= 5 and parts[2] == "resolve":
            self._resolve("/".join(parts[:2]), parts[3], "/".join(parts[4:]))
        else:
            self._send(404, {"error": f"nothing answers {self.command} {path} here"})

    # Requests to the Hub
    def _create(self, asked):
        name = f"{asked.get('organization') or 'tester'}/{asked['name']}"
        if name in self.server.repositories:
            self._send(409, {"error": "You already created this model repo", "url": f"{self.server.url}/{name}"})
        elif self._may_write(name):
            repository = self.server.repositories[name] = Repository(asked.get("visibility") == "private")
            repository.commit("initial commit", {".gitattributes": b"*.safetensors filter=lfs\n"})
            self._send(200, {"url": f"{self.server.url}/{name}"})

    def _validate(self, content):
        try:
            front = yaml.safe_load(content.split("---\n")[1])
            if not isinstance(front, dict):
                raise ValueError("the front matter is no mapping")
        except (ValueError, IndexError, yaml.YAMLError) as error:
            self._send(400, {"errors": [{"message": str(error)}], "warnings": []})
        else:
            self._send(200, {"errors": [], "warnings": []})

    # Requests to a repository
    def _of_repository(self, name, rest, body):
        repository = self._find(name)
        if repository is None:
            return
        action, *arguments = rest or ["revision", "main"]
        if action in ("preupload", "commit") and not self._may_write(name):
            return
        commit = repository.at(arguments[0] if arguments else "main")
        if commit is None:
            self._send(404, {"error": "no such revision"}, {"X-Error-Code": "RevisionNotFound"})
        elif action == "revision":
            siblings = [{"rfilename": path} for path in sorted(commit.files)]
            facts = {"private": repository.private, "tags": [], "downloads": 0, "likes": 0, "gated": False}
            self._send(200, {"id": name, "modelId": name, "sha": commit.sha, "siblings": siblings, **facts})
        elif action == "tree":
            self._list(commit, "/".join(arguments[1:]))
        elif action == "preupload":
            self._send(200, {"files": [self._mode(entry, commit) for entry in json.loads(body)["files"]]})
        elif action == "commit":
            self._commit(name, repository, [json.loads(line) for line in body.splitlines()])
        else:
            self._send(404, {"error": f"nothing answers {action} here"})

    def _list(self, commit, folder):
        below = f"{folder}/" if folder else ""
        entries = [self._entry(path, commit.files[path]) for path in sorted(commit.files) if path.startswith(below)]
        if entries or not folder:
            self._send(200, entries)
        else:
            self._send(404, {"error": f"{folder} does not exist"}, {"X-Error-Code": "EntryNotFound"})

    def _mode(self, entry, commit):
        mode = "lfs" if entry["path"].endswith(LFS_SUFFIXES) else "regular"
        there = commit.files.get(entry["path"])
        oid = None if there is None else (_sha256(there) if mode == "lfs" else _blob(there))
        return {"path": entry["path"], "uploadMode": mode, "shouldIgnore": False, "oid": oid}

    def _commit(self, name, repository, lines):
        head, files = repository.commits[-1], dict(repository.commits[-1].files)
        (header,) = [line["value"] for line in lines if line["key"] == "header"]
        if header.get("parentCommit", head.sha) != head.sha:
            self._send(412, {"error": "The repository has changed since."})
            return
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                if value["oid"] not in self.server.objects:
                    self._send(400, {"error": f"{value['path']}: its object was not uploaded"})
                    return
                files[value["path"]] = self.server.objects[value["oid"]]
            elif line["key"] == "deletedFile":
                del files[value["path"]]
        commit = repository.commit(header["summary"], files)
        url = f"{self.server.url}/{name}/commit/{commit.sha}"
        self._send(200, {"success": True, "commitOid": commit.sha, "commitUrl": url})

    def _resolve(self, name, revision, path):
        repository = self._find(name)
        if repository is None:
            return
        commit = repository.at(revision)
        if commit is None:
            self._send(404, {"error": "no such revision"}, {"X-Error-Code": "RevisionNotFound"})
        elif path not in commit.files:
            found = {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit.sha}
            self._send(404, {"error": "Entry not found"}, found)
        else:
            content = commit.files[path]
            etag = _sha256(content) if path.endswith(LFS_SUFFIXES) else _blob(content)
            self._send(200, content, {"ETag": f'"{etag}"', "X-Repo-Commit": commit.sha, "Accept-Ranges": "none"})

    def _entry(self, path, content):
        entry = {"type": "file", "path": path, "size": len(content), "oid": _blob(content)}
        if path.endswith(LFS_SUFFIXES):
            entry["lfs"] = {"oid": _sha256(content), "size": len(content), "pointerSize": 130}
        return entry

    # LFS
    def _batch(self, asked):
        objects = []
        for entry in asked["objects"]:
            answer = {"oid": entry["oid"], "size": entry["size"]}
            if entry["oid"] not in self.server.objects:
                answer["actions"] = {"upload": {"href": f"{self.server.url}/lfs/{entry['oid']}"}}
            objects.append(answer)
        self._send(200, {"transfer": "basic", "objects": objects})

    def _store_object(self, oid):
        length, limit = int(self.headers["Content-Length"]), self.server.break_after
        if limit is not None and length > limit:
            self.rfile.read(limit)
            self.close_connection = True
            self.connection.close()
            return
        content = self.rfile.read(length)
        if len(content) != length or _sha256(content) != oid:
            self._send(400, {"error": "the content is not what was announced"})
            return
        self.server.objects[oid] = content
        self._send(200, b"")

    # Access rights
    def _has_token(self):
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def _is_known(self):
        if not self._has_token():
            self._send(401, {"error": "Invalid username or password."})
        return self._has_token()

    def _may_write(self, name):
        if not self._is_known():
            return False
        if name.split("/")[0] != WRITABLE:
            self._send(403, {"error": "You don't have the rights to create a model under this namespace"})
            return False
        return True

    def _find(self, name):
        repository = self.server.repositories.get(name)
        if repository is None or (repository.private and not self._has_token()):
            self._send(404 if self._has_token() else 401, {"error": "not found"}, {"X-Error-Code": "RepoNotFound"})
            return None
        return repository

    def _send(self, status, content, headers=None):
        is_file = isinstance(content, bytes)
        body = content if is_file else json.dumps(content).encode()
        self.send_response(status)
        kind = "application/octet-stream" if is_file else "application/json"
        for name, value in {"Content-Type": kind, "Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        if isinstance(content, dict) and "error" in content:
            self.send_header("X-Error-Message", content["error"])
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _blob(content: bytes) -> str:
    """Return git's hash of a file's content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@contextlib.contextmanager
def serve() -> Iterator[HubServer]:
    """Run a server on a free local port until the end of the block."""
    server = HubServer()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def environment(server: HubServer, home, token: str | None = TOKEN) -> dict[str, str]:
    """Return environment variables that make a process use this server as the Hub, with its own cache."""
    variables = {
        "HF_ENDPOINT": server.url,
        "HF_HOME": str(home),
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_XET": "1",  # uploads large files with LFS
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    }
    return variables if token is None else {**variables, "HF_TOKEN": token}


def python(server, home, *arguments, token=TOKEN):
    """Run Python in a new process that uses the server as the Hub."""
    variables = {**os.environ, **environment(server, home, token)}
    if token is None:
        variables.pop("HF_TOKEN", None)
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, env=variables, capture_output=True, text=True, cwd=ROOT)


def contents(folder):
    """Return path -> content of the files in a folder that are uploaded."""
    return {path.as_posix(): (folder / path).read_bytes() for path in files_of(folder)}
