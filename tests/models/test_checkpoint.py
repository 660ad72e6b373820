"""A checkpoint's files as other people leave them: damaged headers, missing shards, weights twice, strays beside them."""

from __future__ import annotations

import json
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qforge.models import checkpoint, repository
from qforge.stages.quantize import copy_companions

A = ("a", {"dtype": "BF16", "shape": [2, 2], "data_offsets": [0, 8]})
B = ("b", {"dtype": "U8", "shape": [4], "data_offsets": [8, 12]})


def write(file: Path, header: Any, data: int = 12) -> Path:
    text = json.dumps(header).encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text + bytes(data))
    return file.parent


def index(folder: Path, weight_map: Any) -> None:
    (folder / checkpoint.INDEX).write_text(json.dumps({"weight_map": weight_map}))


def test_a_whole_file_is_read(tmp_path: Path) -> None:
    found = checkpoint.headers(write(tmp_path / "model.safetensors", dict([A, B, ("__metadata__", {})])))
    assert {name: (t.dtype, t.shape, t.nbytes) for name, t in found.items()} == {
        "a": ("BF16", (2, 2), 8), "b": ("U8", (4,), 4)
    }  # fmt: skip
    assert found["b"].offset == found["a"].offset + 8


def test_a_pointer_of_git_lfs_is_called_so(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_text(
        "version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 12345\n"
    )
    with pytest.raises(ValueError, match=r"model\.safetensors: is a pointer of Git LFS, not the weights themselves"):
        checkpoint.headers(tmp_path)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"b": {"data_offsets": [-4, 0]}}, r"corrupt at b \(shape \[4\], data_offsets \[-4, 0\]\)"),
        ({"b": {"data_offsets": [4, 8]}}, "corrupt at b, which overlaps a"),
        ({"b": {"data_offsets": [0, 4]}}, "corrupt at a, which overlaps b"),
        ({"b": {"data_offsets": [10, 14]}}, "corrupt at b, which leaves a hole before it"),
        ({"b": {"data_offsets": [12, 8]}}, r"corrupt at b: U8\[4\] takes 4 bytes, its data_offsets are \[12, 8\]"),
        ({"b": {"data_offsets": [8]}}, "corrupt at b"),
        ({"b": {"data_offsets": [8.0, 12.0]}}, "corrupt at b"),
        ({"a": {"shape": [-2, -2]}}, r"corrupt at a \(shape \[-2, -2\]"),
        ({"a": {"shape": "22"}}, "corrupt at a"),
        ({"a": {"dtype": ["BF16"]}}, r"a has dtype \['BF16'\], which qforge does not know"),
        ({"b": {"data_offsets": [8, 1 << 40], "shape": [(1 << 40) - 8]}}, r"truncated or corrupt at b \(\d+ bytes"),
    ],
)
def test_a_header_that_cannot_be_true_is_refused(tmp_path: Path, changed: dict[str, Any], words: str) -> None:
    header = {name: {**entry, **changed.get(name, {})} for name, entry in (A, B)}
    with pytest.raises(ValueError, match=words):
        checkpoint.headers(write(tmp_path / "model.safetensors", header))


def test_bytes_that_no_tensor_owns_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="more bytes than its header says at b"):
        checkpoint.headers(write(tmp_path / "model.safetensors", dict([A, B]), data=13))
    (tmp_path / "model.safetensors").write_bytes((1 << 40).to_bytes(8, "little"))
    with pytest.raises(ValueError, match="truncated"):
        checkpoint.headers(tmp_path)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 20) | st.floats() | st.sampled_from(["BF16", "U8", "x", ""]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["a", "dtype", "shape", "data_offsets", "__metadata__"]), inner, max_size=4)
    ),
)


@given(header=JSON, data=st.integers(0, 40))
def test_any_header_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, header: Any, data: int) -> None:
    folder = write(tmp_path_factory.mktemp("any") / "model.safetensors", header, data)
    with suppress(ValueError):
        assert checkpoint.tensor_bytes(folder) == data


TWO = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")


@pytest.mark.parametrize("with_index", [True, False])
@pytest.mark.parametrize("missing", TWO)
def test_a_missing_shard_is_named(tmp_path: Path, with_index: bool, missing: str) -> None:
    for name, entry in zip(TWO, (A, ("b", {**B[1], "data_offsets": [0, 4]})), strict=True):
        write(tmp_path / name, dict([entry]), entry[1]["data_offsets"][1])
    if with_index:
        index(tmp_path, {"a": TWO[0], "b": TWO[1]})
    assert checkpoint.headers(tmp_path).keys() == {"a", "b"}
    (tmp_path / missing).unlink()
    with pytest.raises(ValueError, match=rf"{missing} is missing: the download is incomplete; fetch the model again"):
        checkpoint.headers(tmp_path)


@pytest.mark.parametrize("weight_map", [None, {}, [], "model.safetensors", {"c": "model.safetensors"}, {"a": 1}])
def test_an_index_that_lists_something_else_is_refused(tmp_path: Path, weight_map: Any) -> None:
    write(tmp_path / "model.safetensors", dict([A, B]))
    index(tmp_path, weight_map)
    with pytest.raises(ValueError, match=r"weight_map|says that c is in|is missing"):
        checkpoint.headers(tmp_path)


def test_weights_that_are_there_twice_are_read_once(tmp_path: Path) -> None:
    """Mistral's repositories: in transformers' names by the index, and in Mistral's own."""
    write(tmp_path / "model.safetensors", dict([A, B]))
    write(tmp_path / "consolidated.safetensors", {"layers.0.wq": A[1], "x": B[1]})
    assert checkpoint.headers(tmp_path).keys() == {"a", "b"}
    index(tmp_path, {"a": "model.safetensors", "b": "model.safetensors"})
    assert checkpoint.headers(tmp_path).keys() == {"a", "b"}
    index(tmp_path, {"layers.0.wq": "consolidated.safetensors", "x": "consolidated.safetensors"})
    with pytest.raises(ValueError, match="libraries differ in which one they read; delete one"):
        checkpoint.headers(tmp_path)


STRAYS = ("model-Q4_K_M.gguf", "model.onnx", "tf_model.h5", "optimizer.pt", "events.out.tfevents.1", "x.safetensors.partial",
          "weights.npz", ".gitattributes")  # fmt: skip


def test_strays_are_neither_read_nor_copied_nor_part_of_what_a_model_is(tmp_path: Path) -> None:
    source, artifact = tmp_path / "source", tmp_path / "artifact"
    source.mkdir()
    artifact.mkdir()
    kept = ("tokenizer.json", "tokenizer.model", "chat_template.jinja", "merges.txt", "modeling_own.py", "LICENSE")
    for name in ("config.json", "README.md", *kept):
        (source / name).write_text(name)
    shutil.copyfile(source / "config.json", source / "hf_quant_config.json")  # as read as config.json, and not copied
    plain = checkpoint.small_files(source)
    for name in STRAYS:
        with (source / name).open("wb") as stream:
            stream.truncate(8 << 40 if name.endswith(".gguf") else 1)  # sparse: nobody could read that much
    with (source / "log.txt").open("wb") as stream:
        stream.truncate(8 << 40)
    assert checkpoint.small_files(source) == plain
    assert set(plain) == {"config.json", "hf_quant_config.json", *kept}
    copy_companions(source, artifact)
    assert {file.name for file in artifact.iterdir()} == set(kept)


def test_buffers_that_loaders_skip_are_left_out() -> None:
    kept = {"model.layers.0.self_attn.q_proj.bias", "h.0.attn.c_attn.bias", "h.0.ln_1.weight", "model.norm.weight"}
    skipped = {"model.layers.0.self_attn.rotary_emb.inv_freq", "h.0.attn.bias", "transformer.h.11.attn.masked_bias"}
    skipped |= {"model.rotary_emb.cos_cached", "rotary_pos_emb.inv_freq", "layers.1.self_attn.rotary_emb.sin_cached"}
    tensors = {name: checkpoint.Tensor("F32", (4,)) for name in (*kept, *skipped)}
    assert checkpoint.without_buffers(tensors).keys() == kept


OUTSIDE = (
    "../additional_chat_templates/x.jinja", "/etc/additional_chat_templates/x.jinja", "/x.py", "../x.py", "../tokenizer.json",
    "/tokenizer.json", ".git/config.json",
)  # fmt: skip


@pytest.mark.parametrize("name", OUTSIDE)
def test_no_name_leads_out_of_the_models_folder(name: str) -> None:
    """A hub lists names, and files are written under them."""
    assert repository.companions({name: 1}, code=True) == []
    with pytest.raises(ValueError, match="missing: the download is incomplete"):
        repository.weight_files([name, "model.safetensors"], ["../model.safetensors"], "x")


def test_no_link_takes_a_file_of_the_users_into_an_artifact(tmp_path: Path) -> None:
    """An archive may hold links. Those of who gathers a model in a folder are read, and those of Hugging Face's cache."""
    home, model, other, cache = (tmp_path / name for name in ("home", "model", "other", "cache"))
    for folder in (home, model, other, cache / "snapshots", cache / "blobs"):
        folder.mkdir(parents=True)
    (home / "id_rsa").write_text("secret")
    write(other / "model.safetensors", {"a": {"dtype": "F32", "shape": [3], "data_offsets": [0, 12]}})
    for file in (other / "tokenizer.json", cache / "blobs/f00", model / "own.json"):
        file.write_text("{}")
    (model / "tokenizer.json").symlink_to(other / "tokenizer.json")
    (model / "merges.txt").symlink_to(cache / "blobs/f00")
    (model / "vocab.json").symlink_to("own.json")
    assert checkpoint.companions(model) == ["merges.txt", "own.json", "tokenizer.json", "vocab.json"]
    (model / "LICENSE").symlink_to(home / "id_rsa")
    with pytest.raises(ValueError, match=rf"{model}/LICENSE: a link to {home}/id_rsa, where no model is; put the file"):
        checkpoint.companions(model)
