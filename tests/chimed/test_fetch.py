"""Fetching sources: what is written and recorded, cuts, damage, files that are not ours; no other machine is asked.

One server on this machine speaks both protocols, GitHub's and the hub's, as far as they are used.
"""

from __future__ import annotations

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

import pytest
from huggingface_hub import HfApi

from qilin_lib.chimed import fetch, sources

COMMIT, LATER = "c0ffee" * 6 + "beef", "decade" * 6 + "cafe"
GRAPH = b"name,alias\r\n" + "感冒 [详细],伤风\r\n".encode("gb18030") * 4000
PAIRS = b'{"questions": [["q?"]], "answers": ["Rest, and drink."]}\n' * 3000
GIT, HUB = "zhihao-chen/QASystemOnMedicalGraph", "FreedomIntelligence/huatuo_encyclopedia_qa"
SECRET = "hf_aSecretThatNoFileMayHold"


class Far:
    """What the other side has, how it misbehaves, and what it was asked for."""

    def __init__(self) -> None:
        self.revision = COMMIT
        self.files: dict[str, dict[str, bytes]] = {
            GIT: {"data/disease.csv": GRAPH, "data/vocab.txt": b"x", "a/disease.csv": b"x"},
            HUB: {"train_datasets.jsonl": PAIRS, "test_datasets.jsonl": PAIRS[:200], "README.md": b"x"},
            "Toyhom/Chinese-medical-dialogue-data": {
                "Data_数据/IM_内科/内科 1.csv": GRAPH,
                "Data_数据/IM_内科/x.py": b"x",
            },
        }
        self.cuts: dict[str, int] = {}
        self.damaged: set[str] = set()
        self.requests: list[tuple[str, str, str]] = []

    def ranges(self, name: str) -> list[str]:
        return [asked for method, path, asked in self.requests if method == "GET" and path.endswith(name)]

    def content(self, path: str) -> bytes | None:
        """What lies at an address; None: nothing."""
        match path.strip("/").split("/"):
            case ["repos", _, _, "commits", "HEAD"]:
                return json.dumps({"sha": self.revision}).encode()
            case ["repos", owner, name, *_]:
                files = self.files[f"{owner}/{name}"].items()
                tree = [{"path": p, "type": "blob", "size": len(c), "sha": git_sha1(c)} for p, c in files]
                return json.dumps({"tree": [{"path": "data", "type": "tree"}, *tree], "truncated": False}).encode()
            case ["api", "datasets", owner, name, *_] if f"{owner}/{name}" in self.files:
                files = self.files[f"{owner}/{name}"].items()
                siblings = [{"rfilename": p, "size": len(c), "blobId": git_sha1(c), "lfs": lfs(p, c)} for p, c in files]
                return json.dumps({"id": name, "sha": self.revision, "siblings": siblings}).encode()
            case ["datasets", owner, name, "resolve", revision, *place] | [owner, name, revision, *place]:
                file = "/".join(place)
                content = self.files.get(f"{owner}/{name}", {}).get(file) if revision == COMMIT else None
                return content[:-1] + b"?" if file in self.damaged else content
        return None


def lfs(path: str, content: bytes) -> dict | None:
    """What the hub says of a large file, which the training files are."""
    return {"sha256": sha256(content), "size": len(content), "pointerSize": 1} if path.startswith("train") else None


class Handler(BaseHTTPRequestHandler):
    far: Far
    protocol_version = "HTTP/1.1"

    def log_message(self, *words) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path, asked = unquote(urlsplit(self.path).path), self.headers.get("Range", "")
        self.far.requests.append((self.command, path, asked))
        found = self.far.content(path)
        whole = found or b""
        content = whole[int(asked[6:-1]) :] if asked else whole
        self.send_response(404 if found is None else 206 if asked else 200)
        headers = {"ETag": f'"{git_sha1(whole)}"', "X-Repo-Commit": COMMIT, "Content-Length": len(content)}
        for name, value in headers.items():
            self.send_header(name, str(value))
        self.end_headers()
        if self.command == "GET":
            cut = next((self.far.cuts.pop(file) for file in [*self.far.cuts] if path.endswith(file)), None)
            self.wfile.write(content[:cut])
            self.close_connection = cut is not None


def git_sha1(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def far(monkeypatch):
    handler = type("Bound", (Handler,), {"far": Far()})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        monkeypatch.setattr(fetch, "API", url)
        monkeypatch.setattr(fetch, "RAW", url)
        monkeypatch.setattr(fetch, "HUB", HfApi(endpoint=url))
        monkeypatch.setenv("HF_TOKEN", SECRET)
        yield handler.far
        server.shutdown()


@pytest.fixture
def run(tmp_path, capsys):
    """`run(*words)`: (exit status, everything that was printed)."""

    def call(*words: str) -> tuple[int, str]:
        status = fetch.main([*words, "--raw-dir", str(tmp_path / "raw")])
        printed = capsys.readouterr()
        return status, printed.out + printed.err

    return call


def record(folder) -> dict:
    return json.loads((folder / "fetched.json").read_text(encoding="utf-8"))


def files_of(folder) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_without_yes_the_licence_is_shown_and_nobody_asked(run, far, tmp_path):
    status, printed = run("kg_39health", "kg_xywy")
    assert status == 2 and not far.requests and not (tmp_path / "raw").exists()
    for name in ("kg_39health", "kg_xywy"):
        source = sources.BY_NAME[name]
        assert all(text in printed for text in (name, source.licence, source.home, source.citation))
    assert "--yes" in printed


def test_files_of_a_git_repository_and_their_record(run, far, tmp_path):
    assert run("kg_39health", "toyhom_dialogue", "--yes")[0] == 0
    raw = tmp_path / "raw"
    assert files_of(raw / "kg_39health") == {"disease.csv", "fetched.json"}
    assert (raw / "kg_39health/disease.csv").read_bytes() == GRAPH
    assert files_of(raw / "toyhom_dialogue") == {"IM_内科/内科 1.csv", "fetched.json"}
    held = record(raw / "kg_39health")
    assert held["licence"] == sources.BY_NAME["kg_39health"].licence
    assert held["files"]["disease.csv"] | {"blob": ""} == {
        "repository": f"github:{GIT}", "revision": COMMIT, "path": "data/disease.csv",
        "bytes": len(GRAPH), "sha256": sha256(GRAPH), "blob": "",
    }  # fmt: skip


def test_files_of_the_hub_and_no_secret_in_their_record(run, far, tmp_path):
    status, printed = run("huatuo_encyclopedia_qa", "--yes")
    folder = tmp_path / "raw" / "huatuo_encyclopedia_qa"
    assert status == 0 and (folder / "train_datasets.jsonl").read_bytes() == PAIRS
    assert files_of(folder) == {"train_datasets.jsonl", "test_datasets.jsonl", "fetched.json"}
    held = record(folder)["files"]["train_datasets.jsonl"]
    assert held["revision"] == COMMIT and held["sha256"] == held["blob"] == sha256(PAIRS)
    assert SECRET not in (folder / "fetched.json").read_text(encoding="utf-8") + printed


@pytest.mark.parametrize(
    "name, local", [("kg_39health", "disease.csv"), ("huatuo_encyclopedia_qa", "train_datasets.jsonl")]
)
def test_a_cut_is_gone_on_from_at_the_same_revision(run, far, tmp_path, name, local):
    far.cuts[local] = 30_000
    status, printed = run(name, "--yes")
    folder = tmp_path / "raw" / name
    if name == "kg_39health":  # the hub's client goes on by itself, in pieces larger than this file
        assert status == 2 and "same command again" in printed and not (folder / local).exists()
        far.revision = LATER
        assert run(name, "--yes")[0] == 0 and far.ranges(local)[-1] == "bytes=30000-"
    assert len(far.ranges(local)) == 2
    held = record(folder)["files"][local]
    assert held["revision"] == COMMIT and sha256((folder / local).read_bytes()) == held["sha256"]
    assert files_of(folder) == {*record(folder)["files"], "fetched.json"}


def test_what_arrives_damaged_is_not_kept(run, far, tmp_path):
    far.damaged.add("data/disease.csv")
    status, printed = run("kg_39health", "--yes")
    assert status == 2 and "disease.csv" in printed and "damaged" in printed
    assert files_of(tmp_path / "raw/kg_39health") == {"fetched.json"}
    far.damaged.clear()
    assert run("kg_39health", "--yes")[0] == 0 and far.ranges("disease.csv") == ["bytes=0-"] * 2


def test_a_second_call_verifies_and_asks_nobody(run, far, tmp_path):
    assert run("kg_39health", "--yes")[0] == 0
    far.requests.clear()
    status, printed = run("kg_39health", "--yes")
    assert status == 0 and "verified" in printed and not far.requests
    path = tmp_path / "raw/kg_39health/disease.csv"
    path.write_bytes(b"mine")
    status, printed = run("kg_39health", "--yes")
    assert status == 2 and str(path) in printed and path.read_bytes() == b"mine"
    path.unlink()
    assert run("kg_39health", "--yes")[0] == 0 and path.read_bytes() == GRAPH


@pytest.mark.parametrize(
    "names, said",
    [
        (["kg_39heath"], "did you mean 'kg_39health'"),
        ([], "Nothing was fetched"),
        # Without such a home: the registry's words.
        *(
            (["kg_39health", name], sources.BY_NAME[name].home)
            for name in ("cmd", "meddialog_cn", "kg_cpubmed", "medqa_textbooks")
        ),
    ],
)
def test_what_is_refused_asks_nobody(run, far, names, said):
    status, printed = run(*names, "--yes")
    assert status == 2 and said in printed and not far.requests and all(name in printed for name in names[-1:])


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 9\n"


@pytest.mark.parametrize(
    "name, there, files, said",
    [
        ("huatuo_encyclopedia_qa", HUB, None, "huatuo_encyclopedia_qa"),
        ("kg_39health", GIT, {"data/vocab.txt": b"x"}, "no disease.csv there any more"),
        ("kg_39health", GIT, {"data/disease.csv": POINTER}, "only a pointer to Git LFS"),
    ],
)
def test_what_is_not_there_or_no_data_is_one_sentence(run, far, tmp_path, name, there, files, said):
    del far.files[there]
    far.files |= {} if files is None else {there: files}
    status, printed = run(name, "--yes")
    assert status == 2 and said in printed and "Traceback" not in printed and SECRET not in printed
    assert files is None or sources.BY_NAME[name].home in printed
    assert not {"disease.csv", "train_datasets.jsonl"} & files_of(tmp_path / "raw" / name)


@pytest.mark.parametrize("path", ["../outside.csv", "/outside.csv", "a/../../outside.csv"])
@pytest.mark.parametrize("key", ["", "path", "blob"])
def test_a_name_that_leads_out_of_the_folder_is_refused(run, far, tmp_path, path, key):
    """In a record that came with somebody's folder."""
    folder = tmp_path / "raw/kg_39health"
    assert run("kg_39health", "--yes")[0] == 0
    held = record(folder)
    entry = held["files"].pop("disease.csv")
    held["files"] = {"more.csv": entry | {key: path}} if key else {path: entry}
    (folder / "fetched.json").write_text(json.dumps(held))
    far.requests.clear()
    status, printed = run("kg_39health", "--yes")
    assert status == 2 and "fetched.json" in printed and not far.requests
    assert not [path for path in tmp_path.rglob("*outside*")]
