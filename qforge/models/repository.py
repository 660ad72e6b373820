"""Which files of a repository, or of a folder like one, are the checkpoint that vLLM and transformers read.

Repositories hold the same weights in other formats too (`consolidated*`, `original/`, pickles, GGUF, ONNX). The rule is
that of vLLM's filter_duplicate_safetensors_files and transformers' _get_resolved_checkpoint_files.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import PurePosixPath
from typing import Any

NAME = re.compile(r"(?!.*(--|\.\.))\w[\w.-]*(/\w[\w.-]*)?", re.ASCII)  # as huggingface_hub's validate_repo_id
SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
PART = re.compile(r"(.*-)(\d+)-of-(\d{1,6})\.safetensors")
PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
OTHER_FORMATS = {
    ".gguf": "GGUF", ".ggml": "GGML", ".onnx": "ONNX", ".onnx_data": "ONNX", ".h5": "TensorFlow", ".msgpack": "Flax",
    ".ot": "rust-bert", ".tflite": "TensorFlow Lite", ".mlmodel": "Core ML", ".nemo": "NeMo", ".npz": "NumPy",
}  # fmt: skip
# What tokenizers, processors, a model's own code and licences come in. Everything else beside the weights stays where it is:
# other formats of the weights, optimizer states, pictures, logs
COMPANIONS = (".json", ".jinja", ".txt", ".model", ".tiktoken", ".spm", ".vocab", ".bpe", ".py", ".md", "")
LARGEST_COMPANION = 100_000_000  # bytes; the largest tokenizer known has 33 MB
TEMPLATES = "additional_chat_templates"  # the only folder beside code that transformers looks into
WITH_CODE = (  # files whose auto_map may name code
    "config.json", "tokenizer_config.json", "processor_config.json", "preprocessor_config.json",
    "video_preprocessor_config.json",
)  # fmt: skip


def weight_files(names: Iterable[str], listed: Collection[Any], where: str) -> list[str]:
    """The files with the weights, of `names`: what the index lists, else model.safetensors, else its parts.

    Raises ValueError, which begins with `where`, for a file that is missing and for weights in other formats alone.
    """
    have = {name for name in names if "/" not in name}
    tensors = {
        name for name in have if name.endswith(".safetensors") and not name.startswith(("consolidated", "adapter"))
    }
    parts = {name for name in tensors if name.startswith("model-")}
    chosen = {str(name) for name in listed} or {SINGLE} & tensors or parts or tensors
    if missing := sorted((chosen | _siblings(chosen)) - have):
        what = f"{missing[0]} and {len(missing) - 1} more are" if len(missing) > 1 else f"{missing[0]} is"
        raise ValueError(f"{where}: {what} missing: the download is incomplete; fetch the model again")
    if not chosen:
        raise ValueError(f"{where}: {_other_weights(have)}")
    return sorted(chosen)


def weight_map(index: Mapping[str, Any] | None, where: str) -> Mapping[str, Any]:
    """Tensor -> file, as the index says; empty without an index. Raises ValueError for an index that lists nothing."""
    listed = {} if index is None else index.get("weight_map")
    if index is not None and (not isinstance(listed, dict) or not listed):
        raise ValueError(f"{where}: the weight_map of {INDEX} lists no tensors; fetch it again, or delete it")
    assert isinstance(listed, dict)
    return listed


def companions(sizes: Mapping[str, int], code: bool) -> list[str]:
    """What belongs to the checkpoint beside its weights, of files with these sizes in bytes; *.py only with `code`."""
    return sorted(n for n in sizes if sizes[n] <= LARGEST_COMPANION and _companion(PurePosixPath(n), code))


def weights(name: str) -> bool:
    """Whether a file holds weights in any format, or says which files do."""
    return PurePosixPath(name).suffix.lower() in (".safetensors", *PICKLED, *OTHER_FORMATS) or name.endswith(
        ".index.json"
    )


def check_own_code(names: Collection[str], read: Callable[[str], Mapping[str, Any]], where: str) -> None:
    """Raises ValueError for code that a config of `names` names in its auto_map and that is not among them."""
    for config in [name for name in WITH_CODE if name in names]:
        for file in _own_code(read(config), f"{where}: {config}"):
            if file not in names:
                raise ValueError(
                    f"{where}: {config} names {file} in its auto_map, but that file is missing; get a complete copy"
                )


def _own_code(config: Mapping[str, Any], where: str) -> list[str]:
    """The files of Python that `auto_map` names. Raises ValueError where one lies in another repository."""
    named = config.get("auto_map")
    values = named.values() if isinstance(named, dict) else ()
    lists = [value if isinstance(value, list) else [value] for value in values]  # of tokenizers [slow, fast]
    classes = [value for each in lists for value in each if isinstance(value, str)]
    if other := next((c for c in classes if "--" in c), None):
        raise ValueError(
            f"{where} names code of another repository in its auto_map ({other}), without a commit; copy that "
            "repository's *.py beside the weights, delete the names up to -- from auto_map and give model.path=FOLDER, or "
            "use model.trust_remote_code=false where transformers has the architecture itself"
        )
    return sorted({f"{c.rpartition('.')[0].replace('.', '/')}.py" for c in classes})


def _siblings(names: Iterable[str]) -> set[str]:
    """All files of a set of which one is there: model-00001-of-00002.safetensors has a second part."""
    parts = [match for name in names if (match := PART.fullmatch(name))]
    return {f"{m[1]}{i:0{len(m[2])}}-of-{m[3]}.safetensors" for m in parts for i in range(1, int(m[3]) + 1)}


def _companion(name: PurePosixPath, code: bool) -> bool:
    if name.is_absolute() or any(part.startswith(".") for part in name.parts) or name.name == "README.md":
        return False  # a server may list any name: none may lead out of the model's folder
    if name.suffix == ".py":
        return code
    if name.parent != PurePosixPath("."):
        return name.parent.name == TEMPLATES and name.suffix == ".jinja"
    if name.name.endswith(".index.json"):
        return name.name == INDEX
    return name.suffix in COMPANIONS or name.name.startswith("tokenizer.model")  # Mistral's tokenizer.model.v3


def _other_weights(names: Iterable[str]) -> str:
    """What is wrong with weights that are not in transformers' layout of safetensors, and what to do."""
    by_suffix = {PurePosixPath(name).suffix.lower(): name for name in sorted(names, reverse=True)}
    if "adapter_config.json" in names:
        return "an adapter without its model; merge it first (peft: merge_and_unload, save_pretrained)"
    if pickled := next((by_suffix[suffix] for suffix in PICKLED if suffix in by_suffix), None):
        return (
            f"only pickled weights ({pickled}), which can run code when they are loaded; use a copy in safetensors, or convert "
            "them with transformers: AutoModelForCausalLM.from_pretrained(folder).save_pretrained(new_folder), then "
            "model.path=NEW_FOLDER"
        )
    if suffix := next((suffix for suffix in OTHER_FORMATS if suffix in by_suffix), None):
        return (
            f"only {OTHER_FORMATS[suffix]} weights ({by_suffix[suffix]}); use the repository that it was made from, "
            "which has them in bf16 as safetensors"
        )
    if other := by_suffix.get(".safetensors"):
        return (
            f"no model*.safetensors, which transformers and vLLM read; it has {other}: use a copy that "
            "transformers saved (save_pretrained)"
        )
    return "no *.safetensors file; give a checkpoint that has the weights of its config.json"
