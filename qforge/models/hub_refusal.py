"""Each answer of a hub that refuses a model, and the fix for it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from huggingface_hub.errors import HfHubHTTPError

TOKENS = "https://huggingface.co/settings/tokens"
FOLDER = "or give a local folder: model=local model.path=FOLDER model.name=NAME"


class Unreachable(ValueError):
    """The hub did not answer at all: no network, offline mode, or it is down. `answer` says which, in a few words."""

    def __init__(self, hub: str, answer: str, fix: str) -> None:
        super().__init__(f"model.hub={hub}: {answer}; {fix}, {FOLDER}")
        self.answer = answer


@contextmanager
def asking(hub: str, revision: str | None) -> Iterator[None]:
    """Questions about the repository `hub`. Raises ValueError in place of the library's errors; Unreachable without an answer.

    The hub's rules: without a token, missing and private repositories are one answer (401 RepoNotFound), so that what
    exists is not disclosed; with one, a missing repository and a private one of others are too (404).
    """
    import httpx
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled, SafetensorsParsingError

    try:
        yield
    except HfHubHTTPError as error:
        if error.response.status_code >= 500:
            raise Unreachable(hub, f"the hub is down (HTTP {error.response.status_code})", "try again later") from None
        raise ValueError(_answered(hub, revision, error)) from None
    except OfflineModeIsEnabled:
        fix = "this model is not on this machine yet: unset it once to fetch it"
        raise Unreachable(hub, "HF_HUB_OFFLINE is set", fix) from None
    except httpx.ProxyError as error:
        raise ValueError(f"model.hub={hub}: the proxy refuses the connection ({error}); check HTTPS_PROXY") from None
    except httpx.TransportError as error:
        answer = f"{_endpoint()} cannot be reached ({str(error) or type(error).__name__})"
        fix = "check the network, HTTPS_PROXY and HF_ENDPOINT and run again (the download continues where it stopped)"
        raise Unreachable(hub, answer, fix) from None
    except (
        json.JSONDecodeError,
        AttributeError,
        KeyError,
        TypeError,
    ) as error:  # the library's, for another kind of answer
        answer = f"what {_endpoint()} answers is no hub's ({type(error).__name__}: {error})"
        fix = "check HF_ENDPOINT, and whether a login page or a proxy answers in its place"
        raise Unreachable(hub, answer, fix) from None
    except SafetensorsParsingError as error:
        raise ValueError(f"model.hub={hub}: {str(error).splitlines()[0]}; use a complete repository") from None
    except HFValidationError as error:
        raise ValueError(f"model.hub={hub}: {str(error).splitlines()[0]}") from None


def _answered(hub: str, revision: str | None, error: HfHubHTTPError) -> str:
    """The message for an answer that is no success: the first line of the table that applies."""
    from huggingface_hub import errors, get_token

    page, token, status = f"{_endpoint()}/{hub}", get_token() is not None, error.response.status_code
    detail = (error.server_message or str(error)).splitlines()[0]
    gated, missing = (isinstance(error, kind) for kind in (errors.GatedRepoError, errors.RepositoryNotFoundError))
    messages = (
        (gated and token, f"it is gated, and the account of your token has no access to it; ask for it at {page}, or set "
                          f"HF_TOKEN to the token of an account that has it (the hub says: {detail})"),
        (gated, f"it is gated; ask for access at {page}, then make a token at {TOKENS} and set HF_TOKEN to it"),
        (missing and token, "there is no such repository, or it is private and your token may not read it; check the name "
                            f"at {page}, and what the token may read at {TOKENS}"),
        (missing, f"there is no such repository, or it is private; check the name at {page}, and for a private one set "
                  f"HF_TOKEN to a token that may read it ({TOKENS})"),
        (isinstance(error, errors.RevisionNotFoundError), f"model.revision={revision}: it has no such branch, tag or commit; "
                                                          f"they are listed at {page}/tree/main"),
        (isinstance(error, errors.DisabledRepoError), "the hub has disabled access to it; use another copy"),
        (status == 401, f"the hub does not accept your token (HF_TOKEN, or the one that `hf auth login` saved): {detail}; make "
                        f"a new one at {TOKENS}, or, for a public model, unset it"),
        (status == 403, f"your token may not read it ({detail}); change what it may read at {TOKENS}"),
        (status == 429, "the hub accepts no more requests for now; wait some minutes, or set HF_TOKEN, which raises the limit"),
        (True, f"the hub refuses it (HTTP {status}: {detail}); check the name at {page}"),
    )  # fmt: skip
    return f"model.hub={hub}: {next(text for applies, text in messages if applies)}"


def _endpoint() -> str:
    from huggingface_hub import constants

    return constants.ENDPOINT
