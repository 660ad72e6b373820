"""Tasks made of the user's questions (questions.py): asked in chat or, of a base model, as a text to go on with; and scored."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from statistics import fmean
from typing import Any

from qforge.config.evaluation import Eval
from qforge.config.places import given_path
from qforge.envs.request import Refused
from qforge.evaluation import answer_metrics, answered, asking, instructions, questions, sandbox, tool_calls
from qforge.evaluation.asking import Chat
from qforge.evaluation.questions import Question
from qforge.evaluation.scorers import Scorer

JUDGED = {
    "answer": "contains",
    "checks": "all_kept",
    "call": "right_call",
    "tests": "passes",
}  # the metric that a verdict is about
CONTINUED = "Question: {question}\nAnswer:"  # of a base model; its first line is the answer

Record = dict[str, Any]


def run(settings: Eval, task: str, scorer: Scorer, tokenizer: Any, chat: Chat | None) -> tuple[Record, list[Record]]:
    """The task's summary, as tasks.summary makes it, and the record of every answer."""
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
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # code in the sandbox is waited for
        scores = pool.map(SCORES[kind], (question for _, question in rounds), answers)
        records = [
            answered.record(name, question.id, seed, question.question, _wanted(question), answer, scored)
            for (seed, question), answer, scored in zip(rounds, answers, scores, strict=True)
        ]
    by_seed = [_summary(asked, [one for one in records if one["seed"] == seed]) for seed in range(seeds)]
    summary = {**answered.across(by_seed), "judged": JUDGED[kind]}
    return summary | ({"asked": answered.account(records, seeds)} if chat else {}), records if chat else []


def _in_chat(chat: Chat, asked: list[Question], seeds: int, name: str) -> list[Record]:
    bodies = []
    for seed in range(seeds):
        for question in asked:
            messages = [{"role": "user", "content": question.question}]
            options: dict[str, Any] = {}
            if question.tools:
                options["tools"] = [{"type": "function", "function": tool} for tool in question.tools]
                if not chat.shows_tools(question.tools):
                    messages = tool_calls.told(question.tools, messages)
            bodies.append(chat.body(messages, seed, **options))
    return chat.ask(bodies, f"{name} in chat")


def _continued(scorer: Scorer, tokenizer: Any, asked: list[Question]) -> list[Record]:
    def answer(question: Question) -> Record:
        prompt = list(tokenizer(CONTINUED.format(question=question.question))["input_ids"])
        return {"text": scorer.complete(prompt, asking.TOKENS).strip().partition("\n")[0], "faults": [], "tokens": 0}

    with ThreadPoolExecutor(scorer.parallel) as pool:
        return list(pool.map(answer, asked))


def _wanted(question: Question) -> Any:
    return {"answer": question.answers, "checks": question.checks, "call": question.call, "tests": question.tests}[
        question.kind
    ]


def _summary(asked: list[Question], records: list[Record]) -> Record:
    per_sample = {metric: [one["scores"][metric] for one in records] for metric in records[0]["scores"]}
    return {
        "metrics": {metric: fmean(scores) for metric, scores in per_sample.items()},
        "samples": len(asked),
        "prompt_hashes": hashlib.sha256(repr(asked).encode()).hexdigest(),
        "sample_hashes": [hashlib.sha256(repr(question).encode()).hexdigest()[:16] for question in asked],
        "per_sample": per_sample,
    }


def _answer(question: Question, answer: Record) -> dict[str, float]:
    return answer_metrics.process_results({"answer": question.answers}, [answer["text"]])


def _checks(question: Question, answer: Record) -> dict[str, float]:
    return instructions.scores(question.checks, answer["text"])


def _call(question: Question, answer: Record) -> dict[str, float]:
    return tool_calls.scores(question.tools, question.call, answer["calls"])


def _tests(question: Question, answer: Record) -> dict[str, float]:
    return {"passes": float(sandbox.passes(answer["text"], question.tests))}


SCORES: dict[str, Callable[[Question, Record], dict[str, float]]] = {
    "answer": _answer,
    "checks": _checks,
    "call": _call,
    "tests": _tests,
}
