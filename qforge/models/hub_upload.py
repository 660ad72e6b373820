"""A folder, uploaded to a repository of a Hugging Face hub. Who may write is asked before anything is made."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from qforge.models.hub_refusal import TOKENS

STALE = ["*.safetensors*", "qforge/*"]  # of an earlier upload, where this one does not replace them


def refuse_no_writer(repo: str) -> None:
    """Raises ValueError where there is no token, or one that may only read."""
    from huggingface_hub import HfApi, get_token

    if get_token() is None:
        raise ValueError(
            f"publish.repo={repo}: there is no token; make one that may write at {TOKENS} and set HF_TOKEN to it"
        )
    with _asking(repo):
        role = HfApi().whoami().get("auth", {}).get("accessToken", {}).get("role")
    if role == "read":
        raise ValueError(f"publish.repo={repo}: your token may only read; make one that may write at {TOKENS}")


def upload(repo: str, folder: Path, private: bool) -> str:
    """Make the repository where there is none, and upload the folder; returns the address of the commit.

    Repeated after an interruption it sends what is not there yet. Raises ValueError where the hub refuses or is away.
    """
    from huggingface_hub import HfApi

    with _asking(repo):
        api = HfApi()
        api.create_repo(repo, private=private or None, exist_ok=True)
        done = api.upload_folder(
            repo_id=repo, folder_path=folder, commit_message="A checkpoint by qforge", delete_patterns=STALE
        )
    return str(done.commit_url)


@contextmanager
def _asking(repo: str) -> Iterator[None]:
    """Raises ValueError in place of the library's errors."""
    import httpx
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    try:
        yield
    except HfHubHTTPError as error:
        detail, status = (error.server_message or str(error)).splitlines()[0], error.response.status_code
        fix = "try again later" if status >= 500 else f"check the name, and what your token may write at {TOKENS}"
        raise ValueError(f"publish.repo={repo}: the hub answers HTTP {status} ({detail}); {fix}") from None
    except OfflineModeIsEnabled:
        raise ValueError(f"publish.repo={repo}: HF_HUB_OFFLINE is set; unset it to upload") from None
    except httpx.TransportError as error:
        answer = str(error) or type(error).__name__
        raise ValueError(
            f"publish.repo={repo}: the hub cannot be reached ({answer}); check the network and HF_ENDPOINT"
        ) from None
