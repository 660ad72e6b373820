"""A model on a Hugging Face hub: which commit, which files, and what its config and its headers say. No weights are fetched."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from qforge.config.model import Model
from qforge.models import checkpoint, quantization_config, repository
from qforge.models.checkpoint import BYTES, Tensor, without_buffers
from qforge.models.hub_refusal import asking

COMMIT = re.compile(r"[0-9a-f]{40}")
AT_A_TIME = 8  # requests, as in huggingface_hub's own downloads
LARGEST = 50_000_000_000  # bytes of a file that the hub gives by HTTP: MAX_HTTP_DOWNLOAD_SIZE of huggingface_hub


@dataclass(frozen=True)
class File:
    """A file of a repository. `sha256` is known of the large ones."""

    name: str
    size: int  # bytes
    sha256: str | None = None


def is_commit(revision: str | None) -> bool:
    """Whether a revision always names the same state of the repository, as a branch or a tag does not."""
    return bool(revision and COMMIT.fullmatch(revision))


@cache  # one answer for the whole process: a run must not see the repository change
def commit(hub: str, revision: str | None) -> str:
    """The commit that a branch or a tag stands for, by default the main branch. Raises Unreachable where the hub is."""
    from huggingface_hub import HfApi

    if revision and is_commit(revision):
        return revision
    with asking(hub, revision):
        return str(HfApi().model_info(hub, revision=revision, timeout=_timeout()).sha)


def licence(model: Model) -> str | None:
    """The licence that the hub's model is under, as its card calls it; none where the card does not."""
    from huggingface_hub import HfApi

    with asking(str(model.hub), model.revision):
        card = HfApi().model_info(str(model.hub), revision=model.revision, timeout=_timeout()).card_data
    return card.license if card else None


def last_known(hub: str, revision: str | None) -> str | None:
    """The commit that a branch or a tag stood for when Hugging Face's cache on this machine was last filled."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import RevisionResolutionError

    try:
        return str(HfApi().resolve_revision(hub, revision=revision, local_files_only=True).resolved)
    except RevisionResolutionError:
        return None


def files(model: Model) -> list[File]:
    """The files of the checkpoint, with its own code where it is trusted. Raises ValueError where there is none to use."""
    where, listed = f"model.hub={model.hub}", _listed(str(model.hub), model.revision)
    index = _json(model, repository.INDEX) if repository.INDEX in listed else None
    weights = repository.weight_files(listed, repository.weight_map(index, where).values(), where)
    if "config.json" not in listed:
        raise ValueError(f"{where}: no config.json, so it is not a checkpoint of transformers; use one that is")
    if model.trust_remote_code:
        repository.check_own_code(listed, lambda name: _json(model, name), where)
    sizes = {name: file.size for name, file in listed.items()}
    chosen = [listed[name] for name in [*weights, *repository.companions(sizes, model.trust_remote_code)]]
    if large := next((file for file in chosen if file.size > LARGEST), None):
        raise ValueError(
            f"{where}: {large.name} has {large.size / 1e9:.0f} GB, more than the hub sends by HTTP; fetch it with `hf download "
            f"{model.hub} --revision {commit(str(model.hub), model.revision)}`: qforge then uses those files"
        )
    return chosen


def read(model: Model) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and config of `model.hub`, by its headers. Raises ValueError where they cannot be had."""
    weights = tuple(sorted(file.name for file in files(model) if file.name.endswith(".safetensors")))
    config = quantization_config.complete(
        _json(model, "config.json"), lambda name: _json(model, name) if name in names(model) else None
    )
    return without_buffers(_tensors(str(model.hub), model.revision, weights)), config


def names(model: Model) -> list[str]:
    """Of every file of the repository."""
    return list(_listed(str(model.hub), model.revision))


def cached(model: Model) -> Path | None:
    """The folder in Hugging Face's cache that has every file which a fetch would bring; none where one is missing.

    Where the hub does not say which those are, a folder with config.json and all weights is taken as whole.
    """
    from huggingface_hub import try_to_load_from_cache

    file = try_to_load_from_cache(str(model.hub), "config.json", revision=commit(str(model.hub), model.revision))
    if not isinstance(file, str):
        return None
    folder = Path(file).parent
    try:
        needed = [folder / file.name for file in files(model)]
    except ValueError as refusal:
        try:
            needed = checkpoint.weight_files(folder)
        except ValueError:
            raise refusal from None
    return folder if all(file.is_file() for file in needed) else None


@cache
def _listed(hub: str, revision: str | None) -> Mapping[str, File]:
    """Every file of the repository by its name."""
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import RepoFile

    with asking(hub, revision):
        entries = list(HfApi().list_repo_tree(hub, revision=commit(hub, revision), recursive=True))
    files = [File(e.path, e.size, e.lfs.sha256 if e.lfs else None) for e in entries if isinstance(e, RepoFile)]
    return {file.name: file for file in files}


@cache
def _tensors(hub: str, revision: str | None, names: tuple[str, ...]) -> dict[str, Tensor]:
    from huggingface_hub import HfApi

    def header(name: str) -> Any:
        return HfApi().parse_safetensors_file_metadata(hub, name, revision=commit(hub, revision)).tensors

    with asking(hub, revision), ThreadPoolExecutor(AT_A_TIME) as pool:
        headers = list(pool.map(header, names))
    tensors = {name: Tensor(t.dtype, tuple(t.shape)) for header in headers for name, t in header.items()}
    if odd := next((f"{name} is {t.dtype}" for name, t in tensors.items() if t.dtype not in BYTES), None):
        raise ValueError(f"model.hub={hub}: {odd}, a dtype that qforge does not know; use a bf16 checkpoint")
    return tensors


def _json(model: Model, name: str) -> dict[str, Any]:
    return _small(str(model.hub), model.revision, name)


@cache
def _small(hub: str, revision: str | None, name: str) -> dict[str, Any]:
    """A JSON file of the repository."""
    from huggingface_hub import get_session, hf_hub_url, hf_raise_for_status
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

    with asking(hub, revision):
        url = hf_hub_url(hub, name, revision=commit(hub, revision))
        answer = get_session().get(url, headers=build_hf_headers(), timeout=_timeout())
        hf_raise_for_status(answer)
    try:
        content = json.loads(answer.text)
    except json.JSONDecodeError:
        content = None
    if not isinstance(content, dict):
        raise ValueError(f"model.hub={hub}: its {name} is not a JSON object; use a complete repository")
    return content


def _timeout() -> float:
    from huggingface_hub import constants

    return float(constants.HF_HUB_DOWNLOAD_TIMEOUT)
