"""How quality is measured: the part of the job that evaluate reads, typed."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

MISSING: Any = "???"  # OmegaConf's mark of a value that must be given; spelled out, for stages have no OmegaConf


@dataclass
class Text:
    path: str = MISSING
    kind: str = MISSING  # what kind of text this is, for the report
    licence: str = MISSING


@dataclass
class Divergence:
    """Token-by-token comparison with bf16, on the first windows of each text; costs no pass of its own."""

    windows: int = MISSING  # per text; 0: none
    top_k: int = MISSING  # most likely tokens that both models report


@dataclass
class LongContext:
    """Needles at several depths and lengths, and perplexity by position in one window of the longest length."""

    texts: dict[str, Text] = field(default_factory=dict)  # real text, beside RULER's noise
    lengths: list[int] = field(default_factory=list)  # of the prompts, in tokens; none: not measured
    depths: list[float] = MISSING  # of the needle, from 0 to 1
    per_cell: int = MISSING  # prompts for each length and depth


@dataclass
class Stability:
    """Whether the server repeats itself exactly, speaks language and bears load; needs a server."""

    prompts: str | None = None  # a file with a prompt per line; none: not measured
    repeats: int = MISSING  # of every prompt
    tokens: int = MISSING  # that answer each
    load_seconds: int = MISSING  # of sustained load; 0: none


@dataclass
class ChatJudge:
    """Answers to MT-bench's questions, rated by a model behind any OpenAI-compatible API; needs a server."""

    base_url: str | None = None  # of that API, up to and with /v1; none: not measured
    model: str = MISSING  # its name there
    questions: str = MISSING  # a file with one {"turns": [first, second]} per line
    limit: int | None = None  # questions
    answer_tokens: int = MISSING
    judge_tokens: int = MISSING


@dataclass
class Eval:
    name: str = MISSING
    texts: dict[str, Text] = field(default_factory=dict)
    context: int = MISSING  # tokens of the longest window
    lengths: list[float] = MISSING  # of the windows, in turn, as parts of `context`
    windows: int = MISSING  # windows per text
    divergence: Divergence = field(default_factory=Divergence)
    tasks: list[str] = field(default_factory=list)  # task names of lm-eval, or YAML files of ours
    task_data: str | None = None  # folder with the data of our task files; none: beside them
    limit: int | None = None  # samples per task
    long_context: LongContext = field(default_factory=LongContext)
    kv_dtypes: list[str] = field(default_factory=list)  # further KV cache dtypes for long_context: a server start each
    stability: Stability = field(default_factory=Stability)
    judge: ChatJudge = field(default_factory=ChatJudge)
    concurrency: int = 1  # requests in flight
    adaptive: bool = False  # where a verdict is inconclusive, measure twice as much, again and again
    budget: int = 8  # up to so many times the windows, samples and repeats that were asked for


def eval_files(settings: Eval) -> dict[str, str]:
    """The files that an evaluation is told to read, by the key that names them."""
    files = {f"eval.texts.{name}.path": text.path for name, text in settings.texts.items()}
    files |= {f"eval.long_context.texts.{name}.path": text.path for name, text in settings.long_context.texts.items()}
    files |= {"eval.judge.questions": settings.judge.questions} if settings.judge.base_url else {}
    return files | ({"eval.stability.prompts": settings.stability.prompts} if settings.stability.prompts else {})


ANSWER = 16  # tokens that the answer to a needle may have
SHORTEST = 128  # tokens: a needle, what is asked, and a sentence around it
