"""How quality is measured: the part of the job that evaluate reads, typed."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from qforge.config.bounds import bounded, line, unbounded

MISSING: Any = "???"  # OmegaConf's mark of a value that must be given; spelled out, for stages have no OmegaConf
ANSWER = 16  # tokens that the answer to a needle may have
SHORTEST = 128  # tokens: a needle, what is asked, and a sentence around it


@dataclass(frozen=True)
class Family:
    """What else a long prompt asks for, beside a single needle."""

    answer: int  # tokens that it may have
    shortest: int  # tokens of a prompt
    file: str = ""  # what it is made of, where that is not drawn


FAMILIES = {  # evaluation/needles.py, counted_words.py, documents.py
    "keys": Family(ANSWER, 256),
    "values": Family(64, 256),
    "variables": Family(64, 256),
    "turns": Family(ANSWER, 256),
    "common_words": Family(120, 1024, "data/texts/wikitext2_calibration.txt"),
    "frequent_words": Family(50, 1024),
    "question_answering": Family(32, 1024, "data/tasks/reading.jsonl"),
}


@dataclass
class Text:
    path: str = line(MISSING)  # a file of UTF-8
    kind: str = line(MISSING)  # what kind of text this is, for the report
    licence: str = line(MISSING)  # of the text, for the report


@dataclass
class Divergence:
    """Token-by-token comparison with bf16, on the first windows of each text; costs no pass of its own."""

    windows: int = bounded(MISSING, at_least=0)  # per text; 0: none
    top_k: int = bounded(MISSING, at_least=1)  # most likely tokens that both models report


@dataclass
class OwnAnswers:
    """bf16's own greedy answers, which both models then score token by token: the divergence where it counts."""

    prompts: str | None = line(None)  # a file with a prompt per line; none: not measured
    tokens: int = bounded(MISSING, at_least=2)  # that an answer may have


@dataclass
class LongContext:
    """Needles at several depths and lengths, and perplexity by position in one window of the longest length."""

    texts: dict[str, Text] = unbounded(factory=dict)  # real text, beside RULER's noise
    # of the prompts, in tokens; none: not measured
    lengths: list[int] = bounded(factory=list, at_least=SHORTEST, unique=True)
    # of the needle, from 0 to 1
    depths: list[float] = bounded(MISSING, at_least=0, at_most=1, non_empty=True, unique=True)
    per_cell: int = bounded(MISSING, at_least=1)  # prompts for each length and depth
    # what else is asked for: several needles in the noise, words to be counted, documents; each is a table of its own
    families: list[str] = bounded(factory=list, one_of=tuple(FAMILIES), unique=True)


@dataclass
class Stability:
    """Whether the server repeats itself exactly, speaks language and bears load; needs a server."""

    prompts: str | None = line(None)  # a file with a prompt per line; none: not measured
    repeats: int = bounded(MISSING, at_least=1)  # of every prompt
    tokens: int = bounded(MISSING, at_least=1)  # that answer each
    load_seconds: int = bounded(MISSING, at_least=0)  # of sustained load; 0: none


@dataclass
class ChatJudge:
    """Answers to MT-bench's questions, and to those of eval.tasks that have a rubric, rated by a model behind any
    OpenAI-compatible API; needs a server."""

    base_url: str | None = line(None)  # of that API, up to and with /v1; none: not measured
    model: str = line(MISSING)  # its name there
    # a file with one {"turns": [first, second]} per line; none: MT-bench is left out, and rubrics alone are judged
    questions: str | None = line(MISSING)
    limit: int | None = bounded(None, at_least=1)  # questions of that file
    answer_tokens: int = bounded(MISSING, at_least=1)  # that an answer to them may have
    judge_tokens: int = bounded(MISSING, at_least=1)  # that a judgement may have

    @property
    def rates_mt_bench(self) -> bool:
        """Whether the questions of `questions` are asked."""
        return self.base_url is not None and self.questions is not None


@dataclass
class Spoken:
    """Questions that a model answers aloud; needs a runtime that lets it speak."""

    questions: str = line(MISSING)  # a file with a question per line
    limit: int = bounded(MISSING, at_least=1)  # questions
    tokens: int = bounded(MISSING, at_least=1)  # of text that an answer may have
    # of an API that writes down what it hears (OpenAI's audio/transcriptions), up to and with /v1; none: not transcribed
    recognizer: str | None = line(None)
    recognizer_model: str = line(MISSING)  # its name there


@dataclass
class Eval:
    name: str = line(MISSING)  # of its file in conf/eval/
    texts: dict[str, Text] = bounded(factory=dict, non_empty=True)
    context: int = bounded(MISSING, at_least=2)  # tokens of the longest window
    # of the windows, in turn, as parts of `context`
    lengths: list[float] = bounded(MISSING, above=0, at_most=1, non_empty=True)
    windows: int = bounded(MISSING, at_least=1)  # windows per text
    divergence: Divergence = field(default_factory=Divergence)
    own_answers: OwnAnswers = field(default_factory=OwnAnswers)
    # task names of lm-eval, YAML files of ours, or JSON Lines of the user's questions
    tasks: list[str] = bounded(factory=list, unique=True)
    task_data: str | None = line(None)  # folder with the data of our task files; none: beside them
    limit: int | None = bounded(None, at_least=1)  # samples per task
    # ask what is answered in words through the chat API, in the model's own template; none: where it has one
    chat: bool | None = None
    system: str | None = line(None)  # message before every question
    thinking: bool | None = None  # what the template is told of enable_thinking; none: nothing
    seeds: int = bounded(1, at_least=1)  # how often each question is asked, each time with its own seed
    temperature: float = bounded(0.0, at_least=0, at_most=2)  # of sampling; 0: the likeliest token
    top_p: float = bounded(1.0, above=0, at_most=1)  # of sampling
    # tokens that an answer in chat may have, thoughts included; none: as many as its task says
    answer_tokens: int | None = bounded(None, at_least=1)
    long_context: LongContext = field(default_factory=LongContext)
    # further KV cache dtypes for long_context: a server start each
    kv_dtypes: list[str] = bounded(factory=list, unique=True)
    stability: Stability = field(default_factory=Stability)
    judge: ChatJudge = field(default_factory=ChatJudge)
    speech: Spoken = field(default_factory=Spoken)
    concurrency: int = bounded(1, at_least=1)  # requests in flight
    adaptive: bool = False  # where a verdict is inconclusive, measure twice as much, again and again
    budget: int = bounded(8, at_least=1)  # up to so many times the windows, samples and repeats that were asked for


def eval_files(settings: Eval) -> dict[str, str]:
    """The files that an evaluation is told to read, by the key that names them."""
    files = {f"eval.texts.{name}.path": text.path for name, text in settings.texts.items()}
    files |= {f"eval.long_context.texts.{name}.path": text.path for name, text in settings.long_context.texts.items()}
    used = {name: FAMILIES[name].file for name in settings.long_context.families if settings.long_context.lengths}
    files |= {f"eval.long_context.families={name}": file for name, file in used.items() if file}
    files |= {"eval.judge.questions": str(settings.judge.questions)} if settings.judge.rates_mt_bench else {}
    files |= {"eval.own_answers.prompts": settings.own_answers.prompts} if settings.own_answers.prompts else {}
    return files | ({"eval.stability.prompts": settings.stability.prompts} if settings.stability.prompts else {})
