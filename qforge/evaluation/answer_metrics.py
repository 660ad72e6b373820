"""Metrics of a generated answer against its references; a task file names `process_results` by its import path.

Exact match and F1 are SQuAD's (transformers' squad_metrics, which lm-eval's coqa uses), ROUGE-L is rouge_score's F-measure
with stemming, BLEU is sacrebleu's of the sentence, in [0, 1] like the others. `contains` is 1 where a reference's words stand
in the answer side by side, both made plain as for exact match (no case, articles, punctuation): a chat model answers in
sentences, of which exact match says nothing. Against several references the best counts; a task's score is the mean over its
samples.
"""

from __future__ import annotations

from typing import Any


def process_results(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    """Scores of the model's answer; `doc` has the references under `answer`."""
    import sacrebleu
    from rouge_score.rouge_scorer import RougeScorer
    from transformers.data.metrics.squad_metrics import compute_exact, compute_f1, normalize_answer

    answer, references = results[0].strip(), doc["answer"]
    rouge = RougeScorer(["rougeL"], use_stemmer=True)
    plain = f" {normalize_answer(answer)} "
    return {
        "contains": float(any(f" {normalize_answer(reference)} " in plain for reference in references)),
        "exact_match": float(max(compute_exact(reference, answer) for reference in references)),
        "f1": float(max(compute_f1(reference, answer) for reference in references)),
        "rougeL": float(max(rouge.score(reference, answer)["rougeL"].fmeasure for reference in references)),
        "bleu": sacrebleu.sentence_bleu(answer, references).score / 100,
    }
