"""Where a plan reads a model: a folder, an architecture file, or the hub, whose weights it never fetches."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from support.command import ROOT, Cli

from qforge.models.gemma_tokenizer import Kind, merges

LLAMA = json.loads((ROOT / "data/architectures/llama3_1_8b.json").read_text())


def checkpoint(folder: Path, layers: int = 2, **config: object) -> Path:
    """A checkpoint of a small Llama, whose data is zeros."""
    small = {**LLAMA, "hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4, "num_key_value_heads": 2,
             "head_dim": 16, "num_hidden_layers": layers, "vocab_size": 256, "tie_word_embeddings": True}  # fmt: skip
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({**small, **config}))
    from qforge.models import architectures

    header, offset = {}, 0
    for name, tensor in architectures.tensors(small).items():
        header[name] = {"dtype": "BF16", "shape": tensor.shape, "data_offsets": [offset, offset + tensor.nbytes]}
        offset += tensor.nbytes
    text = json.dumps(header).encode()
    (folder / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + bytes(offset))
    return folder


class Hub(BaseHTTPRequestHandler):
    """What huggingface_hub asks of the hub: files of one repository by name, whole or in part."""

    root: Path
    asked: list[tuple[str, int]]  # file and bytes sent

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, body: bool) -> None:
        file = self.root / self.path.rpartition("/")[2]
        if "/resolve/" not in self.path or not file.is_file():
            self.send_response(404)
            self.send_header("X-Error-Code", "EntryNotFound")
            self.end_headers()
            return
        data, wanted = file.read_bytes(), self.headers.get("Range")
        sent = data
        if wanted:
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            sent = data[int(first) : int(last) + 1 if last else None]
        self.send_response(206 if wanted else 200)
        self.send_header("Content-Length", str(len(sent)))
        if wanted:
            self.send_header("Content-Range", f"bytes {wanted.removeprefix('bytes=')}/{len(data)}")
        self.send_header("ETag", f'"{file.name}"')
        self.send_header("X-Repo-Commit", "0" * 40)
        self.end_headers()
        if body:
            self.asked.append((file.name, len(sent)))
            self.wfile.write(sent)

    def log_message(self, *args: object) -> None:
        """Quiet."""


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[tuple[str, Path, list[tuple[str, int]]]]:
    """A hub on this machine with one model, tiny/llama; and what was asked of it."""
    root, asked = checkpoint(tmp_path / "hub"), []
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("OneModel", (Hub,), {"root": root, "asked": asked}))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", root, asked
    server.shutdown()


FROM_HUB = ("model=local", "model.name=tiny", "model.hub=tiny/llama", "plan_only=true", "method=rtn", "group_size=32")


def test_the_hub_gives_config_and_headers_alone(cli: Cli, hub: tuple, tmp_path: Path) -> None:
    endpoint, root, asked = hub
    done = cli(*FROM_HUB, environ={"HF_ENDPOINT": endpoint, "HF_HOME": str(tmp_path / "home")})
    assert done.code == 0, done.output
    planned = done.json("plan")
    assert planned["source"] == "the headers of tiny/llama on the hub (its weights are not fetched yet)"
    assert len(planned["quantized"]) == 2 * 7
    weights = (root / "model.safetensors").stat().st_size
    assert planned["bf16_bytes"] > 100_000
    assert 0 < sum(size for name, size in asked if name == "model.safetensors") <= 100_001 < weights


def test_a_hub_that_does_not_have_it(cli: Cli, hub: tuple, tmp_path: Path) -> None:
    endpoint, root, _ = hub
    environ = {"HF_ENDPOINT": endpoint, "HF_HOME": str(tmp_path / "home")}
    (root / "model.safetensors").rename(root / "pytorch_model.bin")
    done = cli(*FROM_HUB, environ=environ)
    assert done.code == 2
    assert "model.hub=tiny/llama: it has no safetensors files; pickled weights can run code" in done.output
    gone = cli(*FROM_HUB, environ={**environ, "HF_ENDPOINT": "http://127.0.0.1:9"})
    assert gone.code == 2
    assert "model.hub=tiny/llama: its config and headers cannot be read" in gone.output
    assert "model.architecture=CONFIG_JSON" in gone.output


def local(folder: Path, *more: str) -> tuple[str, ...]:
    return (
        "model=local",
        "model.name=tiny",
        f"model.path={folder}",
        "plan_only=true",
        "method=rtn",
        "group_size=32",
        *more,
    )


def test_a_folder_with_a_config_alone_can_be_planned(cli: Cli, tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "model")
    whole = cli.succeed_inside(*local(folder)).json("plan")
    (folder / "model.safetensors").unlink()
    alone = cli.succeed_inside(*local(folder)).json("plan")
    assert alone["source"].endswith("config.json alone (there are no weights)")
    assert (alone["quantized"], alone["bytes"]) == (whole["quantized"], whole["bytes"])
    run = cli.inside(*local(folder, "plan_only=false"))
    assert run.code == 2
    assert "no *.safetensors file" in run.output


def test_code_of_the_models_own_is_refused_until_it_is_trusted(cli: Cli, tmp_path: Path) -> None:
    own = {"model_type": "mine", "auto_map": {"AutoModelForCausalLM": "modeling_mine.MineForCausalLM"}}
    folder = checkpoint(tmp_path / "model", **own)
    done = cli.inside(*local(folder))
    assert done.code == 2
    assert "names Python code, which runs when the model is loaded: modeling_mine.MineForCausalLM" in done.output
    assert "model.trust_remote_code=true" in done.output
    assert len(cli.succeed_inside(*local(folder, "model.trust_remote_code=true")).json("plan")["quantized"]) == 14


def test_an_unknown_architecture_is_refused_by_name(cli: Cli, tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "model", model_type="mamba")
    (folder / "model.safetensors").unlink()
    done = cli.inside(*local(folder))
    assert done.code == 2
    assert "model_type='mamba' is not known; known architectures: " in done.output


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (b"[1]", "its safetensors header is not a JSON object"),
        (b'{"a": {"dtype": "BF16"}}', "its safetensors header is incomplete at a"),
    ],
)
def test_headers_that_say_nothing(cli: Cli, tmp_path: Path, header: bytes, message: str) -> None:
    folder = checkpoint(tmp_path / "model")
    (folder / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    done = cli.inside(*local(folder))
    assert done.code == 2
    assert message in done.output


def test_a_config_that_lacks_a_number(cli: Cli, tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    del config["num_attention_heads"]
    (folder / "config.json").write_text(json.dumps(config))
    done = cli.inside(*local(folder))
    assert done.code == 2
    assert "its config.json lacks num_attention_heads; use a complete one" in done.output


def test_merges_of_a_sentencepiece_model_are_in_the_order_of_the_scores() -> None:
    pieces = ["a", "b", "c", "ab", "bc", "abc", "\n", "\n\n", "\n\n\n", "<0x61>", "<eos>"]
    scores = [-9.0, -8.0, -7.0, -2.0, -1.0, -3.0, 0.0, 0.0, 0.0, 0.0, 0.0]
    kinds = [*[Kind.normal] * 6, *[Kind.user_defined] * 3, 6, 3]
    newlines = [("\n", "\n"), ("\n", "\n\n"), ("\n\n", "\n")]
    assert merges(pieces, scores, kinds) == [*newlines, ("b", "c"), ("a", "b"), ("a", "bc"), ("ab", "c")]
