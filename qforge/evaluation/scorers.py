"""Two ways to ask a model for what it thinks of a text: the served one, and the one that transformers unpacks."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from qforge.config.job import Job
from qforge.envs.lifetime import importing
from qforge.envs.request import API_KEY, Failed, Refused, Request
from qforge.evaluation import garbage, unpacked
from qforge.evaluation.perplexity import beginning
from qforge.evaluation.tokenizer import load
from qforge.models.auto_class import opened
from qforge.runtimes.vllm import MODEL

if TYPE_CHECKING:
    import httpx
    from numpy.typing import NDArray

HUNG = 900.0  # seconds without an answer, after which the server hangs


@dataclass(frozen=True)
class Scored:
    """A window's scores. `ids` and `logp` are [tokens, 1 + k]: the scored token, then the model's own k most likely."""

    losses: list[float]  # -log p in nats of every token but the first
    ids: NDArray[Any] | None = None
    logp: NDArray[Any] | None = None


class Scorer(Protocol):
    name: str  # server or transformers
    parallel: int  # requests in flight
    unpacked: (
        dict[str, float] | None
    )  # how far its weights are from what the files say (unpacked.py); None: they cannot be read

    def score(self, window: list[int], top_k: int = 0) -> Scored:
        """-log p of every token of the window but the first, and with `top_k` what else the model found likely."""

    def complete(self, prompt: list[int], tokens: int) -> str:
        """The greedy continuation, at most `tokens` long, without special tokens."""

    def origin(self, window: list[int]) -> str:
        """Where the garbage begins that the model says of this window, as far as that can be told."""

    def for_lm_eval(self) -> tuple[Any, Any]:
        """lm-eval's model and its arguments."""


class Server:
    """vLLM behind its OpenAI API: the kernels that users get are what is scored."""

    name = "server"
    unpacked: dict[str, float] | None = None  # vLLM keeps packed weights in its kernels' own order

    def __init__(self, request: Request) -> None:
        import httpx

        assert request.server
        self.url, self.key, self.request = request.server, os.environ[API_KEY], request
        self.parallel = request.job.eval.concurrency
        headers = {"Authorization": f"Bearer {self.key}"}
        # as many idle connections as requests: httpx closes surplus ones, at 128 at once also one that another thread reads
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=self.parallel)
        self.client = httpx.Client(base_url=self.url, headers=headers, timeout=HUNG, limits=limits)

    def post(self, path: str, body: dict[str, Any], seconds: float = HUNG) -> httpx.Response:
        """What it answers, errors too. Raises Failed where it answers nothing for so many seconds.

        Where a connection breaks it asks again, once; raises httpx.TransportError where that breaks, too.
        """
        import httpx

        try:
            try:
                return self.client.post(path, json=body, timeout=seconds)
            except (httpx.NetworkError, httpx.ProtocolError):
                return self.client.post(path, json=body, timeout=seconds)
        except httpx.TimeoutException:
            raise Failed(f"the server hangs: it has answered nothing to {path} for {seconds:g} s") from None

    def _ask(self, **body: Any) -> Any:
        reply = self.post("/v1/completions", {"model": MODEL, "temperature": 0, **body})
        if reply.status_code >= 400 and "not JSON compliant" in reply.text:  # vLLM's words for a NaN in its own answer
            raise Failed(f"the model is garbage: the server's log probabilities are NaN; {self.origin(body['prompt'])}")
        return content_of(reply)["choices"][0]

    def score(self, window: list[int], top_k: int = 0) -> Scored:
        import numpy as np

        # one entry per token, none for the first: {token id: {"logprob": ..., "rank": ...}} of the top k and the token itself
        entries = self._ask(prompt=window, max_tokens=1, prompt_logprobs=top_k)["prompt_logprobs"][1:]
        losses = [-entry[str(token)]["logprob"] for token, entry in zip(window[1:], entries, strict=True)]
        if not top_k:
            return Scored(losses)
        ids = np.zeros((len(entries), 1 + top_k), np.int32)
        logp = np.zeros((len(entries), 1 + top_k), np.float32)
        for row, (token, entry) in enumerate(zip(window[1:], entries, strict=True)):
            own = entry[str(token)]["logprob"]
            if len(entry) > top_k:  # the token is not among the top k
                del entry[str(token)]
            top = sorted(entry.items(), key=lambda item: item[1]["rank"])
            ids[row] = [token, *(int(other) for other, _ in top)]
            logp[row] = [own, *(candidate["logprob"] for _, candidate in top)]
        return Scored(losses, ids, logp)

    def origin(self, window: list[int]) -> str:
        return _in_checkpoint(self.request.inputs["artifact"])

    def complete(self, prompt: list[int], tokens: int, to_the_end: bool = False) -> str:
        """`to_the_end` goes on after an end-of-text token, so that every answer costs the same."""
        return str(self._ask(prompt=prompt, max_tokens=tokens, ignore_eos=to_the_end)["text"])

    def chat(self, messages: list[dict[str, str]], tokens: int) -> str:
        """The model's greedy answer to a conversation. Raises Refused where it has no chat template."""
        body = {"model": MODEL, "messages": messages, "temperature": 0, "max_tokens": tokens}
        reply = self.post("/v1/chat/completions", body)
        if reply.status_code == 400 and "chat template" in reply.text:
            raise Refused(
                "eval.judge: this model has no chat template, so it cannot chat; leave eval.judge.base_url out"
            )
        return str(content_of(reply)["choices"][0]["message"]["content"])

    def for_lm_eval(self) -> tuple[Any, Any]:
        os.environ["OPENAI_API_KEY"] = self.key
        return "local-completions", {
            "model": MODEL,
            "base_url": f"{self.url}/v1/completions",
            "tokenizer": self.request.inputs["artifact"],
            "tokenizer_backend": "huggingface",
            "add_bos_token": _begins(self.request.inputs["artifact"], self.request.job),
            "num_concurrent": self.parallel,
            "max_length": int(self.request.job.engine_args.get("max_model_len") or self.context()),
            "trust_remote_code": self.request.job.model.trust_remote_code,
        }

    def context(self) -> int:
        """The tokens that a prompt and its answer may have, where they are not set: as the server says."""
        return int(self.client.get("/v1/models").raise_for_status().json()["data"][0]["max_model_len"])


def content_of(reply: httpx.Response) -> dict[str, Any]:
    """What an answer of OpenAI's API says. Raises httpx.HTTPStatusError for an error, Failed where it has no choice."""
    try:
        content: dict[str, Any] = reply.raise_for_status().json()
        content["choices"][0]
    except (ValueError, LookupError, TypeError):
        raise Failed(f"the server's answer to {reply.url.path} is none of OpenAI's API: {reply.text[:100]!r}") from None
    return content


class Transformers:
    """The library's own forward pass in bf16, in this process; packed weights are unpacked at load."""

    name = "transformers"
    parallel = 1

    def __init__(self, request: Request) -> None:
        self.artifact, self.job = request.inputs["artifact"], request.job
        with importing():
            import torch  # noqa: F401  most of what opening takes
            import transformers  # noqa: F401

        self.model = opened(self.artifact, self.job.model.trust_remote_code)
        self.unpacked: dict[str, float] | None = unpacked.compare(self.model, Path(self.artifact))

    def score(self, window: list[int], top_k: int = 0) -> Scored:
        import torch

        tokens = torch.tensor([window], device=self.model.device)
        with torch.inference_mode():
            logp = self.model(tokens).logits[0, :-1].float().log_softmax(-1)
        scored = logp.gather(1, tokens[0, 1:, None])
        losses = [-x for x in scored[:, 0].tolist()]
        if not top_k:
            return Scored(losses)
        top = logp.topk(top_k)
        ids = torch.cat([tokens[0, 1:, None], top.indices], 1)
        return Scored(losses, ids.int().numpy(force=True), torch.cat([scored, top.values], 1).numpy(force=True))

    def origin(self, window: list[int]) -> str:
        if module := garbage.in_model(self.model, window):
            return f"the first NaN or infinity comes out of {module}; {_in_checkpoint(self.artifact)}"
        return _in_checkpoint(self.artifact)

    def complete(self, prompt: list[int], tokens: int) -> str:
        import torch

        tokenizer = load(self.artifact, self.job)
        ids = torch.tensor([prompt], device=self.model.device)
        out = self.model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=tokens, do_sample=False)
        return str(tokenizer.decode(out[0, len(prompt) :], skip_special_tokens=True))

    def for_lm_eval(self) -> tuple[Any, Any]:
        with importing():
            from lm_eval.models.huggingface import HFLM

        trusted = self.job.model.trust_remote_code
        begins = _begins(self.artifact, self.job)
        model = HFLM(self.model, tokenizer=self.artifact, batch_size=1, add_bos_token=begins, trust_remote_code=trusted)
        return model, None


def _in_checkpoint(artifact: str) -> str:
    if tensor := garbage.in_checkpoint(Path(artifact)):
        return f"{tensor} in the checkpoint holds NaN or infinity"
    return "every tensor of the checkpoint is finite, so it begins in the arithmetic: a kernel, or the range of a dtype"


def _begins(artifact: str, job: Job) -> bool:
    """Whether the tokenizer begins a text with BOS; lm-eval would leave it out, and Gemma answers nonsense without it."""
    return bool(beginning(load(artifact, job)))
