"""Metrics of a generated answer against its references; a task file names `process_results` by its import path.

Exact match and F1 are SQuAD's (transformers' squad_metrics, which lm-eval's coqa uses), ROUGE-L is rouge_score's F-measure
with stemming (of letters a to z and digits alone), BLEU is sacrebleu's of the sentence, in [0, 1] like the others. `contains`
is 1 where a reference's words stand in the answer side by side, both made plain as for exact match (no case, articles,
punctuation): a chat model answers in sentences, of which exact match says nothing. A reference that is an article, as the A of
a choice, must stand there as it is written. Exact match, F1 and `contains` see text as plain_text.py gives it. Against several
references the best counts; a task's score is the mean over its samples.
"""

from __future__ import annotations

import re
from typing import Any

from qforge.evaluation.plain_text import plain


def process_results(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    """Scores of the model's answer; `doc` has the references under `answer`."""
    import sacrebleu
    from rouge_score.rouge_scorer import RougeScorer
    from transformers.data.metrics.squad_metrics import compute_f1

    answer, references = results[0].strip(), doc["answer"]
    rouge = RougeScorer(["rougeL"], use_stemmer=True)
    return {
        "contains": float(any(_contains(answer, reference) for reference in references)),
        "exact_match": float(any(_is(answer, reference) for reference in references)),
        "f1": float(max(compute_f1(plain(reference), plain(answer)) for reference in references)),
        "rougeL": float(max(rouge.score(reference, answer)["rougeL"].fmeasure for reference in references)),
        "bleu": sacrebleu.sentence_bleu(answer, references).score / 100,
    }


def _is(answer: str, reference: str) -> bool:
    from transformers.data.metrics.squad_metrics import normalize_answer

    if words := normalize_answer(plain(reference)):
        return bool(words == normalize_answer(plain(answer)))
    return answer.strip(" .:!?()'\"") == reference.strip()


def _contains(answer: str, reference: str) -> bool:
    from transformers.data.metrics.squad_metrics import normalize_answer

    if words := normalize_answer(plain(reference)):
        return f" {words} " in f" {normalize_answer(plain(answer))} "
    return bool(reference.strip()) and re.search(rf"(?<!\w){re.escape(reference.strip())}(?!\w)", answer) is not None
