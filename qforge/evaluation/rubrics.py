"""Answers that a judge (chat_judge.py) holds against a rubric: what the user's own line says that a good answer has.

The judge is shown the question, the rubric and one answer, and rates it from 1 to 10 in the form of MT-bench's single ratings,
greedily. The score, `rubric`, is (rating - 1) / 9, from 0 to 1 as every other: a step of the scale is 11.1 of the points of
`answers_lost_points`. A task's score is the mean over its questions, each a mean over the seeds. An answer without text is
rated 1 and not shown. A judge that gives no rating is counted, not guessed at: a question of which an answer has none is left
out of the mean, and of the comparison on both sides. The same answer to the same question is rated once, whichever model gives
it: what a judge has rated is kept in the store. Ratings of different judges cannot be compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from qforge.config.evaluation import Eval
from qforge.config.places import given_path
from qforge.evaluation import asking, questions
from qforge.evaluation.chat_judge import CHARACTERS, HIGHEST, HOW_TO_RATE, LOWEST, Cost, Judge, rating
from qforge.evaluation.journal import Journal
from qforge.evaluation.questions import Question

SHOWN = (
    "[Instruction]\nPlease act as an impartial judge and evaluate the quality of the response provided by an AI assistant to "
    "the user question displayed below. The rubric displayed below says what a good response has: your evaluation should "
    f"consider that and nothing else. {HOW_TO_RATE}\n\n[Question]\n{{question}}\n\n[The Start of the Rubric]\n{{rubric}}\n"
    "[The End of the Rubric]\n\n[The Start of Assistant's Answer]\n{answer}\n[The End of Assistant's Answer]"
)

Record = dict[str, Any]


def files(settings: Eval) -> list[str]:
    """The tasks that a judge is needed for. Raises ValueError for a file that holds no questions."""
    own = [task for task in settings.tasks if task.endswith(questions.ENDING)]
    return [task for task in own if questions.read(given_path(task))[0].kind == questions.RUBRIC]


def cost(settings: Eval, task: str) -> Cost:
    """The most that judging the answers of one checkpoint takes."""
    limit = settings.limit and settings.limit * (settings.budget if settings.adaptive else 1)
    lines, seeds = questions.read(given_path(task), limit), settings.seeds
    said = sum(len(SHOWN) + len(line.question) + len(line.rubric) for line in lines) // CHARACTERS
    answers = len(lines) * seeds
    read = said * seeds + answers * (settings.answer_tokens or asking.TOKENS)
    return Cost(answers, read, answers * settings.judge.judge_tokens)


def judged(judge: Judge, journal: Journal, answers: Sequence[tuple[Question, str]], parallel: int) -> list[Record]:
    """Of every answer what the judge said and its rating, none where it gave none; `parallel` of them asked at once.

    What has a rating is kept in `journal`, which belongs to the judge.
    """
    from tqdm import tqdm

    def ask(shown: str) -> Record:
        if known := journal.find(shown):
            return known
        said = judge.ask({"role": "user", "content": shown})
        found = {"said": said, "rating": rating(said)}
        if found["rating"] is not None:
            journal.keep(shown, found)
        return found

    shown = [
        SHOWN.format(question=question.question, rubric=question.rubric, answer=text) if text.strip() else None
        for question, text in answers
    ]
    once = [text for text in dict.fromkeys(shown) if text is not None]
    with ThreadPoolExecutor(parallel) as pool:
        found = dict(zip(once, tqdm(pool.map(ask, once), total=len(once), desc="judge"), strict=True))
    return [found[text] if text is not None else {"said": "", "rating": LOWEST} for text in shown]


def scores(judgement: Record) -> dict[str, float | None]:
    """Of one answer, from 0 to 1; none where the judge gave no rating."""
    rated = judgement["rating"]
    return {questions.RUBRIC: None if rated is None else (rated - LOWEST) / (HIGHEST - LOWEST)}
