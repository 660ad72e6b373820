"""What a plan reads from a hub, which never is the weights; and each refusal of a hub told apart, with its way out."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants
from support.checkpoints import small_llama
from support.command import Cli, Finished
from support.hub import Hub

from qforge.config.model import Model
from qforge.json_files import read_json
from qforge.models import checkpoint, metadata
from qforge.models.checkpoint import Tensor
from qforge.models.shards import Shard

PLAN = ("model=local", "model.name=tiny", "model.hub=tiny/llama", "plan_only=true", "method=rtn", "group_size=32")
OWN_CODE = {"model_type": "mine", "auto_map": {"AutoModelForCausalLM": "modeling_mine.MineForCausalLM"}}


@pytest.fixture
def folder(hub: Hub, tmp_path: Path) -> Path:
    """The folder behind the hub's one repository, tiny/llama."""
    folder = small_llama(tmp_path / "llama")
    hub.commit("tiny/llama", folder)
    return folder


Plan = Callable[..., Finished]


@pytest.fixture
def plan(cli: Cli, hub: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Plan:
    """Plan tiny/llama in this process, with a token or without."""

    def plan(*overrides: str, token: str = "") -> Finished:
        hub.stand_in(monkeypatch, token)
        return cli.inside(*PLAN, *overrides)

    return plan


def refused(done: Finished, *words: str) -> None:
    assert done.code == 2, done.output
    assert done.output.count("refused: ") == 1
    for each in words:
        assert each in done.output


def test_config_and_headers_are_all_that_a_plan_reads(cli: Cli, hub: Hub, folder: Path) -> None:
    planned = cli.succeed(*PLAN, environ=hub.environ()).json("plan")
    assert planned["source"] == "the headers of tiny/llama on the hub (its weights are not fetched yet)"
    assert len(planned["quantized"]) == 2 * 7
    weights = (folder / "model.safetensors").stat().st_size
    assert planned["bf16_bytes"] > 100_000
    assert 0 < sum(asked.sent for asked in hub.fetched("cdn")) <= 100_001 < weights
    assert {asked.file for asked in hub.fetched("hub")} == {"config.json"}
    assert not list(hub.home.rglob("*.json")), "nothing is left in Hugging Face's cache"


def test_a_gated_repository_says_where_to_ask(plan: Plan, hub: Hub, folder: Path) -> None:
    repository = hub.repositories["tiny/llama"]
    repository.access, hub.tokens, repository.readers = "gated", {"hf_other", "hf_reader"}, {"hf_reader"}
    page = f"{hub.endpoint}/tiny/llama"
    refused(
        plan(),
        f"model.hub=tiny/llama: it is gated; ask for access at {page}, then make a token at ",
        "https://huggingface.co/settings/tokens and set HF_TOKEN to it",
    )
    without = plan(token="hf_other")
    refused(
        without,
        f"it is gated, and the account of your token has no access to it; ask for it at {page}, or set HF_TOKEN",
    )
    assert "you are not in the authorized list" in without.output
    assert "hf_other" not in without.output
    assert plan(token="hf_reader").code == 0
    assert {asked.token for asked in hub.fetched("cdn")} == {None}, "the token stays with the hub"


def test_missing_private_and_unauthorized_are_told_apart(plan: Plan, hub: Hub, folder: Path) -> None:
    hub.tokens = {"hf_other", "hf_owner"}
    either = "there is no such repository, or it is private"
    refused(plan("model.hub=nobody/nothing"), f"model.hub=nobody/nothing: {either}; check the name at", "set HF_TOKEN")
    refused(
        plan("model.hub=nobody/nothing", token="hf_other"),
        f"model.hub=nobody/nothing: {either} and your token may not read",
    )
    hub.repositories["tiny/llama"].access, hub.repositories["tiny/llama"].readers = "private", {"hf_owner"}
    refused(plan(), f"model.hub=tiny/llama: {either}; check the name at", "set HF_TOKEN")
    refused(plan(token="hf_other"), f"model.hub=tiny/llama: {either} and your token may not read")
    assert plan(token="hf_owner").code == 0
    unknown = plan(token="hf_mistyped")
    refused(
        unknown,
        "the hub does not accept your token (HF_TOKEN, or the one that `hf auth login` saved)",
        "make a new one at",
    )
    assert "hf_mistyped" not in unknown.output


@pytest.mark.parametrize(
    ("status", "said", "message"),
    [
        (
            403,
            "not this one",
            "your token may not read it (not this one); change what it may read at https://huggingface.co/",
        ),
        (403, "Access to this resource is disabled.", "the hub has disabled access to it; use another copy"),
        (
            429,
            "slow down",
            "the hub accepts no more requests for now; wait some minutes, or set HF_TOKEN, which raises the limit",
        ),
        (503, "", "the hub is down (HTTP 503); try again later, or give a local folder: model=local model.path=FOLDER"),
        (418, "a teapot", "the hub refuses it (HTTP 418: a teapot); check the name at "),
    ],
)
def test_answers_that_are_no_success(plan: Plan, hub: Hub, folder: Path, status: int, said: str, message: str) -> None:
    hub.refusal = status, said
    refused(plan(), f"model.hub=tiny/llama: {message}")


def test_a_revision_and_an_id_that_do_not_exist(plan: Plan, hub: Hub, folder: Path) -> None:
    refused(
        plan("model.revision=v9"),
        "model.hub=tiny/llama: model.revision=v9: it has no such branch, tag or commit; they are listed at ",
    )
    refused(plan("model.hub=a/b/c"), "model.hub='a/b/c': is not the name of a repository; use OWNER/NAME")


def test_no_hub_at_all(cli: Cli, hub: Hub) -> None:
    gone = cli(*PLAN, environ=hub.environ(HF_ENDPOINT="http://127.0.0.1:9"))
    refused(
        gone,
        "model.hub=tiny/llama: http://127.0.0.1:9 cannot be reached (",
        "check the network, HTTPS_PROXY and",
    )
    refused(
        cli(*PLAN, environ=hub.environ(HF_HUB_OFFLINE="1")),
        "model.hub=tiny/llama: HF_HUB_OFFLINE is set; this model is not on this machine yet: unset it once to fetch it",
    )
    assert not hub.asked


@pytest.mark.parametrize("page", [b"<html>Welcome to the hotel</html>", b"", b"[1]", b"null", b'{"a": 1}'])
def test_somebody_else_in_place_of_the_hub(plan: Plan, hub: Hub, monkeypatch: pytest.MonkeyPatch, page: bytes) -> None:
    """200 OK, as a login page of a network answers."""
    monkeypatch.setattr(hub._servers[0].RequestHandlerClass, "do_GET", lambda handler: answer(handler, page))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", True)
    refused(
        plan(), f"model.hub=tiny/llama: what {hub.endpoint} answers is no hub's (", "check HF_ENDPOINT, and whether"
    )


def answer(handler: Any, page: bytes) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(page)))
    handler.end_headers()
    handler.wfile.write(page)


def test_a_proxy_that_refuses(cli: Cli, hub: Hub) -> None:
    environ = hub.environ(HF_ENDPOINT="https://hub.invalid", HTTPS_PROXY=hub.endpoint, NO_PROXY="", no_proxy="")
    refused(
        cli(*PLAN, environ=environ), "model.hub=tiny/llama: the proxy refuses the connection (501", "check HTTPS_PROXY"
    )


def only(name: str) -> Callable[[Path], None]:
    """The weights, as if they were in another format."""
    return lambda folder: (folder / "model.safetensors").rename(folder / name) and None


def elsewhere(folder: Path) -> None:
    config = read_json(folder / "config.json")
    config["auto_map"] = {"AutoConfig": "other/base--configuration_mine.MineConfig"}
    (folder / "config.json").write_text(json.dumps(config))


def adapter(folder: Path) -> None:
    only("adapter_model.safetensors")(folder)
    (folder / "adapter_config.json").write_text("{}")


def header(text: bytes) -> Callable[[Path], None]:
    return lambda folder: (folder / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text) and None


def incomplete(folder: Path) -> None:
    only("model-00001-of-00002.safetensors")(folder)
    places = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))


NOTHING_TO_USE = {
    "pickled": (
        only("pytorch_model.bin"),
        "only pickled weights (pytorch_model.bin), which can run code when they are loaded",
    ),
    "gguf": (
        only("model-Q4_K_M.gguf"),
        "only GGUF weights (model-Q4_K_M.gguf); use the repository that it was made from",
    ),
    "onnx": (only("model.onnx"), "only ONNX weights (model.onnx)"),
    "mistral": (
        only("consolidated.safetensors"),
        "no model*.safetensors, which transformers and vLLM read; it has con",
    ),
    "adapter": (adapter, "an adapter without its model; merge it first (peft: merge_and_unload, save_pretrained)"),
    "incomplete": (
        incomplete,
        "model-00002-of-00002.safetensors is missing: the download is incomplete",
    ),
    "no_weights": (lambda folder: (folder / "model.safetensors").unlink(), "no *.safetensors file"),
    "no_config": (
        lambda folder: (folder / "config.json").unlink(),
        "no config.json, so it is not a checkpoint of transformers",
    ),
    "no_json": (lambda folder: (folder / "config.json").write_text("[]"), "its config.json is not a JSON object"),
    "no_header": (header(b"[1"), "Failed to parse safetensors header"),
    "no_dtype": (
        header(b'{"a": {"dtype": "C64", "shape": [1], "data_offsets": [0, 8]}}'),
        "a is C64, a dtype that qforge does",
    ),
    "code_elsewhere": (
        elsewhere,
        "config.json names code of another repository in its auto_map (other/base--config",
    ),
}


@pytest.mark.parametrize("case", NOTHING_TO_USE)
def test_a_repository_that_has_nothing_to_use(plan: Plan, hub: Hub, folder: Path, case: str) -> None:
    change, message = NOTHING_TO_USE[case]
    change(folder)
    refused(plan("model.trust_remote_code=true"), f"model.hub=tiny/llama: {message}")
    assert sum(asked.sent for asked in hub.fetched("cdn")) == 0, "said before any weights"


IN_A_FOLDER = [name for name in NOTHING_TO_USE if not name.startswith("no_")]


@pytest.mark.parametrize("case", IN_A_FOLDER)
def test_the_same_in_a_folder(tmp_path: Path, case: str) -> None:
    change, message = NOTHING_TO_USE[case]
    change(folder := small_llama(tmp_path / "llama"))
    with pytest.raises(ValueError, match=f"^{re.escape(f'{folder}: {message}')}"):
        metadata.read(Model(name="tiny", path=str(folder), trust_remote_code=True), folder)


def test_own_code_must_be_trusted_and_there(plan: Plan, hub: Hub, tmp_path: Path) -> None:
    hub.commit("tiny/llama", folder := small_llama(tmp_path / "own", **OWN_CODE))
    refused(plan(), "its config.json names Python code", "model.trust_remote_code=true")
    trusted = "model.trust_remote_code=true"
    refused(plan(trusted), "config.json names modeling_mine.py in its auto_map, but that file is missing")
    (folder / "modeling_mine.py").write_text("")
    (folder / "tokenizer_config.json").write_text('{"auto_map": {"AutoTokenizer": ["tokenization_mine.Mine", null]}}')
    refused(plan(trusted), "tokenizer_config.json names tokenization_mine.py in its auto_map")
    (folder / "tokenization_mine.py").write_text("")
    assert len(plan(trusted).json("plan")["quantized"]) == 14


def test_a_second_copy_beside_the_weights_is_not_read(plan: Plan, hub: Hub, folder: Path) -> None:
    """Mistral's repositories have the weights twice, under other names; others keep the original's or a pickle."""
    expected = plan().json("plan")
    (folder / "original").mkdir()
    other = small_llama(folder.parent / "other", num_hidden_layers=3) / "model.safetensors"
    for name in ("consolidated.safetensors", "original/model.safetensors", "pytorch_model.bin", "x.gguf"):
        shutil.copyfile(other, folder / name)
    for where in ("model.hub=tiny/llama", f"model.path={folder}"):
        planned = plan(where).json("plan")
        assert (planned["quantized"], planned["bytes"]) == (expected["quantized"], expected["bytes"])


def as_fp8(folder: Path) -> None:
    """Its matrices in FP8, a scale for each: zeros, since nobody reads them."""
    tensors = checkpoint.headers(folder)
    packed = dict[str, Tensor]()
    for name, tensor in tensors.items():
        linear = name.endswith("_proj.weight")
        packed[name] = Tensor("F8_E4M3", tensor.shape) if linear else Tensor(tensor.dtype, tensor.shape)
        if linear:
            packed[f"{name}_scale"] = Tensor("F32", ())
    rewrite(folder, packed)


def as_gptq(folder: Path) -> None:
    tensors = {name: Tensor(t.dtype, t.shape) for name, t in checkpoint.headers(folder).items()}
    rewrite(folder, {name.replace("q_proj.weight", "q_proj.qweight"): tensor for name, tensor in tensors.items()})


def rewrite(folder: Path, tensors: dict[str, Tensor]) -> None:
    shard = Shard(folder / "model.safetensors", tensors)
    shard.open()
    shard.close()


def test_how_a_repository_is_quantized_is_known_before_anything_is_fetched(plan: Plan, hub: Hub, folder: Path) -> None:
    plain = plan().json("plan")
    as_fp8(folder)
    planned = plan()  # config.json is silent: names, dtypes and shapes say it
    assert planned.code == 0, planned.output
    assert planned.json("plan")["published"] == "FP8 per tensor (14 tensors)"
    assert planned.json("plan")["quantized"] == plain["quantized"]
    assert {asked.file for asked in hub.fetched("hub")} == {"config.json"}
    assert sum(asked.sent for asked in hub.fetched("cdn")) <= 2 * 100_001  # headers


def test_a_repository_that_is_not_unpacked_is_refused_before_it_is_fetched(plan: Plan, hub: Hub, folder: Path) -> None:
    as_gptq(folder)
    refused(
        plan(), "it is quantized by GPTQ or AWQ (model.layers.0.self_attn.q_proj.qweight), which is not unpacked here"
    )
    assert {asked.file for asked in hub.fetched("hub")} <= {"config.json"}


def test_a_run_refuses_what_the_hub_says_of_a_model_with_an_architecture_file(
    cli: Cli, hub: Hub, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The committed models of 700 GB are planned from a file; what is published is looked at before it is fetched."""
    shutil.copyfile(folder / "config.json", tmp_path / "bf16.json")
    as_gptq(folder)
    hub.stand_in(monkeypatch)
    given = [entry for entry in PLAN if entry != "plan_only=true"]
    done = cli.inside(*given, f"model.architecture={tmp_path / 'bf16.json'}", "hw=cpu", "stages=[quantize,inspect]")
    refused(done, "which is not unpacked here; give the bf16 model that it was made from")
    assert {asked.file for asked in hub.fetched("hub")} <= {"config.json"}
    assert sum(asked.sent for asked in hub.fetched("cdn")) <= 2 * 100_001
