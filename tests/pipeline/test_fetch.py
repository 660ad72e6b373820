"""A model from a hub onto the disk: which files, whole or continued, and of which commit."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from support.checkpoints import small_llama
from support.command import ROOT, Cli, Finished
from support.hub import Hub

from qforge.stages.quantize import copy_companions

FETCH = ("model=local", "model.name=tiny", "model.hub=tiny/llama", "method=bf16", "stages=[report]")
CHUNK = 10 * 2**20  # bytes that huggingface_hub writes at once


def download(hub: Hub, folder: Path, commit: str, token: str = "", **model: object) -> subprocess.CompletedProcess[str]:
    """What the stage does, in a process of its own."""
    code = (
        "import sys, json; from pathlib import Path; from qforge.config.model import Model; "
        "from qforge.models import hub_download; hub_download.download(Model(**json.loads(sys.argv[1])), Path(sys.argv[2]))"
    )
    asked = json.dumps({"name": "tiny", "hub": "tiny/llama", "revision": commit, **model})
    env = {**os.environ, **hub.environ(token), "PYTHONPATH": str(ROOT)}
    return subprocess.run([sys.executable, "-c", code, asked, str(folder)], capture_output=True, text=True, env=env)


Fetch = Callable[..., Finished]


@pytest.fixture
def fetch(cli: Cli, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fetch:
    """Fetch tiny/llama into a store of its own: a run that does nothing else."""

    def fetch(*overrides: str, token: str = "") -> Finished:
        hub.stand_in(monkeypatch, token)
        return cli.inside(*FETCH, f"store={tmp_path / 'store'}", *overrides)

    return fetch


def same(found: Path, served: Path) -> bool:
    return found.read_bytes() == served.read_bytes()


def test_what_is_fetched_is_the_checkpoint_alone(hub: Hub, tmp_path: Path) -> None:
    served = small_llama(tmp_path / "served", model_type="mine", auto_map={"AutoModel": "modeling_mine.Mine"})
    wanted = [
        "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "tokenizer.model.v3",
        "mine.tiktoken", "vocab.txt", "chat_template.jinja", "additional_chat_templates/tools.jinja", "LICENSE",
        "modeling_mine.py", "layers/attention.py",
    ]  # fmt: skip
    others = [
        "consolidated.safetensors", "consolidated.safetensors.index.json", "original/model.safetensors", "original/params.json",
        "pytorch_model.bin", "pytorch_model.bin.index.json", "consolidated.00.pth", "tf_model.h5", "flax_model.msgpack",
        "llama.Q4_K_M.gguf", "onnx/model.onnx", "model.onnx", "README.md", "figure.png", ".gitattributes", "runs/events.json",
    ]  # fmt: skip
    for name in [*wanted[1:], *others]:
        (served / name).parent.mkdir(exist_ok=True)
        (served / name).write_text("{}")
    commit = hub.commit("tiny/llama", served)
    done = download(hub, tmp_path / "got", commit, trust_remote_code=True)
    assert done.returncode == 0, done.stderr
    names = {f.relative_to(tmp_path / "got").as_posix() for f in (tmp_path / "got").rglob("*") if f.is_file()}
    assert names == {"model.safetensors", *wanted}
    assert all(same(tmp_path / "got" / name, served / name) for name in names)
    fetched = {asked.file for asked in hub.fetched()}
    assert fetched == {Path(name).name for name in names}
    download(hub, tmp_path / "plain", commit)
    assert not list((tmp_path / "plain").rglob("*.py")), "code comes only where it is trusted"


def test_shards_are_those_of_the_index(hub: Hub, tmp_path: Path) -> None:
    served = small_llama(tmp_path / "served")
    (served / "model.safetensors").rename(served / "model-00001-of-00001.safetensors")
    (served / "model-00009-of-00009.safetensors").write_bytes(b"left over")
    places = {"model.norm.weight": "model-00001-of-00001.safetensors"}
    (served / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    assert download(hub, tmp_path / "got", hub.commit("tiny/llama", served)).returncode == 0
    assert {f.name for f in (tmp_path / "got").glob("*.safetensors")} == {"model-00001-of-00001.safetensors"}


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """A model whose weights come in more than one piece."""
    folder = small_llama(tmp_path / "large", vocab_size=128_256)
    assert (folder / "model.safetensors").stat().st_size > CHUNK + 2**20
    return folder


def ranges(hub: Hub) -> list[str | None]:
    return [asked.range for asked in hub.fetched("cdn") if asked.file == "model.safetensors"]


def test_a_broken_connection_is_taken_up_where_it_broke(hub: Hub, large: Path, tmp_path: Path) -> None:
    hub.cut = {"model.safetensors": [CHUNK + 1000]}
    done = download(hub, tmp_path / "got", hub.commit("tiny/llama", large))
    assert done.returncode == 0, done.stderr
    assert ranges(hub) == [None, f"bytes={CHUNK}-"]
    assert same(tmp_path / "got/model.safetensors", large / "model.safetensors")


def test_a_download_that_ended_early_goes_on_in_the_next_run(
    fetch: Fetch, hub: Hub, large: Path, tmp_path: Path
) -> None:
    commit = hub.commit("tiny/llama", large)
    hub.cut = {"model.safetensors": [CHUNK + 1000, *[0] * 6]}  # and no more of it, however often it is asked
    broken = fetch()
    assert broken.code == 2, broken.output
    assert "cannot be reached (" in broken.output
    assert "run again (the download continues where it stopped)" in broken.output
    assert not list(tmp_path.glob("store/fetch/*/result.json"))
    hub.asked.clear()
    done = fetch()
    assert ranges(hub)[-1] == f"bytes={CHUNK}-"
    assert (
        sum(asked.sent for asked in hub.fetched("cdn")) < (large / "model.safetensors").stat().st_size - CHUNK + 200_002
    )
    (model,) = tmp_path.glob("store/fetch/*/model")
    assert same(model / "model.safetensors", large / "model.safetensors")
    assert not list(tmp_path.glob("store/fetch/*.download"))
    assert done.json("row")["source"] == {"hub": "tiny/llama", "revision": commit}


def test_what_arrives_damaged_is_fetched_anew(hub: Hub, large: Path, tmp_path: Path) -> None:
    commit, got = hub.commit("tiny/llama", large), tmp_path / "got"
    got.mkdir()
    (got / "model.safetensors.partial").write_bytes(bytes(1000))  # of a disk that lost what was written
    done = download(hub, got, commit)
    assert "model.safetensors was damaged while it was fetched (its sha256 differs); run again" in done.stderr
    assert download(hub, got, commit).returncode == 0
    assert same(got / "model.safetensors", large / "model.safetensors")


def test_a_token_goes_to_the_hub_alone_and_is_written_nowhere(fetch: Fetch, hub: Hub, tmp_path: Path) -> None:
    hub.commit("tiny/llama", small_llama(tmp_path / "served"))
    repository = hub.repositories["tiny/llama"]
    hub.tokens, repository.access, repository.readers = {"hf_secret"}, "private", {"hf_secret"}
    done = fetch(token="hf_secret")
    assert done.code == 0, done.output
    assert {asked.token for asked in hub.fetched("hub")} == {"hf_secret"}
    assert {asked.token for asked in hub.fetched("cdn")} == {None}
    assert "hf_secret" not in done.output
    written = [f for root in (done.folder, tmp_path / "store", hub.home) for f in root.rglob("*") if f.is_file()]
    assert len(written) > 10
    assert [f for f in written if b"hf_secret" in f.read_bytes() or b"Signature=" in f.read_bytes()] == []


def test_a_branch_is_one_commit_for_the_run_and_its_key(fetch: Fetch, hub: Hub, tmp_path: Path) -> None:
    first = hub.commit("tiny/llama", small_llama(tmp_path / "first"))
    done = fetch()
    assert done.json("row")["source"]["revision"] == first
    assert f"tiny/llama at {first[:12]}" in done.output
    asked = [a.path for a in hub.asked if "tiny/llama" in a.path]
    assert [path for path in asked if first not in path] == ["/api/models/tiny/llama"], "the branch is asked for once"
    second = hub.commit("tiny/llama", small_llama(tmp_path / "second", num_hidden_layers=3))
    assert f"tiny/llama at {second[:12]}" in fetch().output
    hub.asked.clear()
    again = fetch(f"model.revision={first}")
    assert "reused  tiny/llama at" in again.output
    assert not [a for a in hub.asked if "tiny/llama" in a.path], "a commit that is here is asked of nobody"


def test_without_the_hub_what_is_here_is_used_and_said(fetch: Fetch, cli: Cli, hub: Hub, tmp_path: Path) -> None:
    commit = hub.commit("tiny/llama", small_llama(tmp_path / "served"))
    store = f"store={tmp_path / 'store'}"
    assert fetch().code == 0
    offline = cli.succeed(*FETCH, store, environ=hub.environ(HF_HUB_OFFLINE="1"))
    assert (
        f"HF_HUB_OFFLINE is set: the last commit of tiny/llama that this machine knows is used: {commit}"
        in offline.output
    )
    gone = cli.succeed(*FETCH, store, environ=hub.environ(HF_ENDPOINT="http://127.0.0.1:9"))
    assert "http://127.0.0.1:9 cannot be reached" in gone.output
    other = cli(*FETCH, store, "model.revision=v2", environ=hub.environ(HF_HUB_OFFLINE="1"))
    assert other.code == 2
    assert "HF_HUB_OFFLINE is set; this model is not on this machine yet" in other.output


def test_the_guide_plans_from_what_is_here_too(fetch: Fetch, cli: Cli, hub: Hub, tmp_path: Path) -> None:
    hub.commit("tiny/llama", small_llama(tmp_path / "served"))
    assert fetch().code == 0
    auto = (*FETCH[:3], "method=auto", "plan_only=true", "hw=h100", f"store={tmp_path / 'store'}")
    done = cli.succeed(*auto, environ=hub.environ(HF_HUB_OFFLINE="1"))
    assert done.json("guide")["choices"]


def hf_cache(hub: Hub, served: Path, commit: str) -> Path:
    """What `hf download` leaves: a folder of links by commit, and which commit main is."""
    repository = hub.home / "hub/models--tiny--llama"
    snapshot = repository / "snapshots" / commit
    for folder in (repository / "blobs", repository / "refs", snapshot):
        folder.mkdir(parents=True)
    (repository / "refs/main").write_text(commit)
    for file in served.iterdir():
        blob = repository / "blobs" / hashlib.sha256(file.read_bytes()).hexdigest()
        shutil.copyfile(file, blob)
        (snapshot / file.name).symlink_to(f"../../blobs/{blob.name}")
    return snapshot


@pytest.mark.parametrize("access", ["public", "gated", "offline"])
def test_the_cache_of_hugging_face_is_used_where_it_is(cli: Cli, hub: Hub, tmp_path: Path, access: str) -> None:
    served = small_llama(tmp_path / "served")
    snapshot = hf_cache(hub, served, hub.commit("tiny/llama", served))
    hub.repositories["tiny/llama"].access = access
    environ = hub.environ(HF_HUB_OFFLINE=str(int(access == "offline")))
    done = cli.succeed(*FETCH, f"store={tmp_path / 'store'}", environ=environ)
    assert f"reused  tiny/llama, from Hugging Face's cache: {snapshot}" in done.output
    assert not hub.fetched("cdn")
    assert not list(tmp_path.glob("store/fetch/*/model"))
    (snapshot / "model.safetensors").unlink()  # as after an interrupted download
    incomplete = cli(*FETCH, f"store={tmp_path / 'other'}", environ=environ)
    said = {
        "public": "✓ fetch",
        "gated": "it is gated; ask for access",
        "offline": "this model is not on this machine yet",
    }
    assert said[access] in incomplete.output
    assert bool(hub.fetched("cdn")) == (access == "public")


def test_a_folder_of_links_is_a_model_and_its_repository_is_not(cli: Cli, hub: Hub, tmp_path: Path) -> None:
    served = small_llama(tmp_path / "served")
    snapshot = hf_cache(hub, served, hub.commit("tiny/llama", served))
    local = [o for o in FETCH if not o.startswith("model.hub")]
    cli.succeed(*local, f"model.path={snapshot}")
    above = cli(*local, f"model.path={snapshot.parents[1]}")
    assert above.code == 2
    assert f"holds one folder for each commit, such as {snapshot}" in above.output


def test_a_disk_too_small_is_said_before_anything_is_fetched(fetch: Fetch, hub: Hub, tmp_path: Path) -> None:
    served = small_llama(tmp_path / "served")
    plain = f"model.architecture={shutil.copyfile(served / 'config.json', tmp_path / 'plain.json')}"
    shards = [f"model-{number:05}-of-00400.safetensors" for number in range(1, 401)]
    (served / "model.safetensors").rename(served / shards[0])
    for name in shards[1:]:
        (served / name).write_bytes((2).to_bytes(8, "little") + b"{}")  # no tensors
    (served / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": dict(zip(shards, shards, strict=True))})
    )
    hub.commit("tiny/llama", served)
    hub.sizes = dict.fromkeys(shards, 40_000_000_000)  # 16 TB
    done = fetch(plain)
    assert done.code == 2
    assert "GB free and this run may write 19200.00 GB; free some space or give another store=PATH" in done.output
    hub.sizes[shards[0]] = 60_000_000_000
    assert f"{shards[0]} has 60 GB, more than the hub sends by HTTP; fetch it with `hf" in fetch(plain).output
    assert all(asked.range for asked in hub.fetched("cdn")), "headers alone"


def test_what_the_hub_would_be_refused_for_is_asked_before_it_is_fetched(
    fetch: Fetch, hub: Hub, tmp_path: Path
) -> None:
    """A plan from an architecture file asks no hub; a run looks before it fetches."""
    served = small_llama(tmp_path / "served", quantization_config={"quant_method": "fp8"})  # of weights that are plain
    hub.commit("tiny/llama", served)
    plain = small_llama(tmp_path / "plain")
    architecture = f"model.architecture={plain / 'config.json'}"
    assert fetch(architecture, "plan_only=true").code == 0
    assert not hub.asked
    done = fetch(architecture)
    assert done.code == 2
    assert "it has a quantization_config, and its weights are plain" in done.output
    assert all(asked.range for asked in hub.fetched("cdn")), "headers alone"


def test_own_code_is_fetched_and_goes_with_the_artifact(fetch: Fetch, hub: Hub, tmp_path: Path) -> None:
    served = small_llama(tmp_path / "served", auto_map={"AutoConfig": "configuration_mine.Mine"})
    for name, text in {
        "configuration_mine.py": "from .parts import PART",
        "parts.py": "PART = 1",
        "more/deep.py": "",
    }.items():
        (served / name).parent.mkdir(exist_ok=True)
        (served / name).write_text(text)
    hub.commit("tiny/llama", served)
    assert fetch("model.trust_remote_code=true").code == 0
    (model,) = tmp_path.glob("store/fetch/*/model")
    artifact = tmp_path / "artifact"
    artifact.mkdir()
    copy_companions(model, artifact)
    assert {file.relative_to(artifact).as_posix() for file in artifact.rglob("*.py")} == {
        "configuration_mine.py", "parts.py", "more/deep.py"
    }  # fmt: skip
