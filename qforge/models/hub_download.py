"""The files of a checkpoint from the hub: several at a time, each whole or to be continued, the large ones held to their hash.

huggingface_hub 1.33 downloads a file under a name of its own and throws it away when the process ends early
(file_download.py, _download_to_tmp_and_move), so that gigabytes would be fetched again. Its http_get continues a file.
"""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from typing import Any, cast

from qforge.config.model import Model
from qforge.disk import appear
from qforge.models import hub
from qforge.models.hub_refusal import asking


def download(model: Model, folder: Path) -> None:
    """Every file of the checkpoint into `folder`. What is whole there is kept, what is not is continued.

    `model.revision` is a commit. Raises ValueError for what the hub refuses and for a file that is not what it says.
    """
    from tqdm import tqdm

    wanted = sorted(hub.files(model), key=lambda file: -file.size)
    bar = tqdm(desc="fetching", total=sum(file.size for file in wanted), unit="B", unit_scale=True)
    pool = ThreadPoolExecutor(hub.AT_A_TIME)
    try:
        for _ in pool.map(lambda file: _file(model, file, folder / file.name, bar), wanted):
            pass
    finally:
        pool.shutdown(cancel_futures=True)
        bar.close()


def _file(model: Model, file: hub.File, target: Path, bar: Any) -> None:
    if target.exists():  # it has its name when it is whole
        bar.update(file.size)
        return
    partial = target.with_name(f"{target.name}.partial")
    partial.parent.mkdir(parents=True, exist_ok=True)
    with partial.open("ab") as stream:
        _continue(model, file, stream, bar)
    if file.sha256 and _sha256(partial) != file.sha256:
        partial.unlink()
        raise ValueError(
            f"model.hub={model.hub}: {file.name} was damaged while it was fetched (its sha256 differs); run again"
        )
    appear(partial, target)


def _continue(model: Model, file: hub.File, stream: Any, bar: Any) -> None:
    """Fetch what `stream`, at its end, lacks of the file; a broken connection is taken up where it broke."""
    from huggingface_hub import hf_hub_url
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

    def share(initial: int = 0, **_: Any) -> Any:  # the bar of all files, where http_get asks for one of its own
        bar.update(initial)
        return nullcontext(bar)

    # the hub's own address, not the CDN's that it leads to: that one is signed, ends soon, and would be logged on a retry
    url = hf_hub_url(str(model.hub), file.name, revision=model.revision)
    headers = {
        **build_hf_headers(),
        "Accept-Encoding": "identity",
    }  # parts of a compressed file are not parts of the file
    with asking(str(model.hub), model.revision):
        http_get(
            url, stream, resume_size=stream.tell(), headers=headers, expected_size=file.size,
            displayed_filename=file.name, tqdm_class=cast(Any, share),
        )  # fmt: skip


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
