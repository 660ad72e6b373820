"""Tasks made of the user's questions (questions.py): asked in chat or, of a base model, as a text to go on with; and scored."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import fmean
from typing import Any

from qforge.config.evaluation import Eval
from qforge.config.places import given_path
from qforge.envs.request import Refused
from qforge.evaluation import answer_metrics, answered, asking, instructions, questions, rubrics, sandbox, tool_calls
from qforge.evaluation.asking import Chat
from qforge.evaluation.chat_judge import Judge
from qforge.evaluation.journal import Journal
from qforge.evaluation.questions import Question
from qforge.evaluation.scorers import Scorer

JUDGED = {
    "answer": "contains",
    "checks": "all_kept",
    "call": "right_call",
    "tests": "passes",
    questions.RUBRIC: questions.RUBRIC,
}  # the metric that a verdict is about
CONTINUED = "Question: {question}\nAnswer:"  # of a base model; its first line is the answer

Record = dict[str, Any]
Scores = Mapping[str, float | None]


def run(
    settings: Eval, task: str, scorer: Scorer, tokenizer: Any, chat: Chat | None, judgements: Path | None = None
) -> tuple[Record, list[Record]]:
    """The task's summary, as tasks.summary makes it, and the record of every answer. `judgements`: the journal of the judge."""
    asked, name = questions.read(given_path(task), settings.limit), questions.name_of(task)
    kind = asked[0].kind
    if chat:
        seeds, answers = settings.seeds, _in_chat(chat, asked, settings.seeds, name)
    elif kind == questions.ANSWER:
        seeds, answers = 1, _continued(scorer, tokenizer, asked)
    else:
        raise Refused(
            f"eval.tasks: {task} holds {kind}, which are asked in chat alone; give a model that has a chat template"
        )
    rounds = [(seed, question) for seed in range(seeds) for question in asked]
    rated: Record = {}
    if kind == questions.RUBRIC:
        assert judgements
        answers, rated = _judged(settings, judgements, [question for _, question in rounds], answers)
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # code in the sandbox is waited for
        scores = pool.map(SCORES[kind], (question for _, question in rounds), answers)
        records = [
            answered.record(name, question.id, seed, question.question, _wanted(question), answer, scored)
            for (seed, question), answer, scored in zip(rounds, answers, scores, strict=True)
        ]
    summary = {**_summary(asked, records), **rated, "judged": JUDGED[kind]}
    return summary | ({"asked": answered.account(records, seeds)} if chat else {}), records if chat else []


def _judged(settings: Eval, journal: Path, asked: list[Question], answers: list[Record]) -> tuple[list[Record], Record]:
    """The answers, each with its judgement, and what is to be said of the judge."""
    judge = Judge(settings.judge)
    texts = [answer["text"] for answer in answers]
    judgements = rubrics.judged(judge, Journal(journal), list(zip(asked, texts, strict=True)), settings.concurrency)
    rated = {
        "judge": settings.judge.model, "unrated": sum(one["rating"] is None for one in judgements),
        "unanswered": judge.unanswered, "error": judge.error, "cut_off": judge.cut_off,
    }  # fmt: skip
    both = zip(answers, judgements, strict=True)
    return [{**answer, "judgement": judgement} for answer, judgement in both], {"rated": rated}


def _in_chat(chat: Chat, asked: list[Question], seeds: int, name: str) -> list[Record]:
    bodies = []
    for seed in range(seeds):
        for question in asked:
            messages = [{"role": "user", "content": question.question}]
            options: dict[str, Any] = {}
            if question.tools:
                options["tools"] = [{"type": "function", "function": tool} for tool in question.tools]
                if not chat.shows_tools(question.tools):
                    messages = chat.behind(tool_calls.told(question.tools), question.question)
            bodies.append(chat.body(messages, seed, **options))
    return chat.ask(bodies, f"{name} in chat")


def _continued(scorer: Scorer, tokenizer: Any, asked: list[Question]) -> list[Record]:
    def answer(question: Question) -> Record:
        prompt = list(tokenizer(CONTINUED.format(question=question.question))["input_ids"])
        return {"text": scorer.complete(prompt, asking.TOKENS).strip().partition("\n")[0], "faults": [], "tokens": 0}

    with ThreadPoolExecutor(scorer.parallel) as pool:
        return list(pool.map(answer, asked))


def _wanted(question: Question) -> Any:
    return question.answers if question.kind == questions.ANSWER else getattr(question, question.kind)


def _summary(asked: list[Question], records: list[Record]) -> Record:
    """A sample's score is its mean over the seeds, none where an answer has none; a metric is the mean of the samples that have
    one, and is not there where none has."""
    by_item: dict[str, list[Record]] = {}
    for one in records:
        by_item.setdefault(one["item"], []).append(one["scores"])
    per_sample = {
        metric: [answered.mean([scores[metric] for scores in of]) for of in by_item.values()]
        for metric in records[0]["scores"]
    }
    scored = {metric: [one for one in scores if one is not None] for metric, scores in per_sample.items()}
    return {
        "metrics": {metric: fmean(scores) for metric, scores in scored.items() if scores},
        "samples": len(asked),
        "prompt_hashes": hashlib.sha256(repr(asked).encode()).hexdigest(),
        "sample_hashes": [hashlib.sha256(repr(question).encode()).hexdigest()[:16] for question in asked],
        "per_sample": per_sample,
    }


def _answer(question: Question, answer: Record) -> Scores:
    return answer_metrics.process_results({"answer": question.answers}, [answer["text"]])


def _checks(question: Question, answer: Record) -> Scores:
    return instructions.scores(question.checks, answer["text"])


def _call(question: Question, answer: Record) -> Scores:
    return tool_calls.scores(question.tools, question.call, answer["calls"])


def _tests(question: Question, answer: Record) -> Scores:
    return {"passes": float(sandbox.passes(answer["text"], question.tests))}


def _rubric(question: Question, answer: Record) -> Scores:
    return rubrics.scores(answer["judgement"])


SCORES: dict[str, Callable[[Question, Record], Scores]] = {
    "answer": _answer,
    "checks": _checks,
    "call": _call,
    "tests": _tests,
    questions.RUBRIC: _rubric,
}
