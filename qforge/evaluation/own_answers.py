"""The baseline's own long answers, teacher-forced through both models: where a quantized one leaves bf16's way, and how early.

bf16 answers each prompt greedily, through its chat template where it has one, and its words are kept. Both models then score
every token of these answers, given the prompt and bf16's tokens before it; the divergence is that of divergence.py, and by
position in the answer. A text that people wrote says less of a model: in use it goes on with its own words.
"""

from __future__ import annotations

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from qforge.config.evaluation import Eval
from qforge.config.places import given_path
from qforge.envs.request import Refused
from qforge.evaluation import garbage, stability
from qforge.evaluation.scorers import Scored, Scorer
from qforge.json_files import write_json

FILE = "own_answers.json"  # of the baseline: [[token ids of a prompt, of its answer], ...]
NAME = "own answers"  # beside the texts of a divergence


def measure(
    settings: Eval, scorer: Scorer, tokenizer: Any, out: Path, given: str | None
) -> tuple[dict[str, Any], list[Scored]]:
    """What was scored, and the scores of the answers' tokens. `given`: FILE of the baseline; none: this is the baseline."""
    from tqdm import tqdm

    if given is None:
        write_json(out / FILE, _answers(settings, scorer, tokenizer))
    pairs: list[list[list[int]]] = json.loads(Path(given or out / FILE).read_text())
    windows = [[*prompt, *answer] for prompt, answer in pairs]

    def score(window: list[int]) -> Scored:
        return scorer.score(window, settings.divergence.top_k)

    with ThreadPoolExecutor(scorer.parallel) as pool:
        scores = list(tqdm(pool.map(score, windows), total=len(windows), desc=NAME))
    garbage.refuse(NAME, windows, [one.losses for one in scores], scorer)
    about = {
        "answers": len(pairs),
        "tokens": sum(len(answer) for _, answer in pairs),
        "windows_sha256": hashlib.sha256(repr(pairs).encode()).hexdigest(),
    }
    return about, [_behind(one, len(prompt)) for one, (prompt, _) in zip(scores, pairs, strict=True)]


def _answers(settings: Eval, scorer: Scorer, tokenizer: Any) -> list[list[list[int]]]:
    options = settings.own_answers
    prompts = [
        stability.tokens_of(tokenizer, line) for line in given_path(str(options.prompts)).read_text().splitlines()
    ]

    def answer(prompt: list[int]) -> list[int]:
        text = scorer.complete(prompt, options.tokens)
        return list(tokenizer(text, add_special_tokens=False)["input_ids"])

    with ThreadPoolExecutor(scorer.parallel) as pool:
        found = [[prompt, words] for prompt, words in zip(prompts, pool.map(answer, prompts), strict=True) if words]
    if not found:
        raise Refused(
            f"eval.own_answers.prompts={options.prompts}: the baseline answers none of them with a word; use others"
        )
    return found


def _behind(scored: Scored, prompt: int) -> Scored:
    """Without the tokens of the prompt, of which the first has no score."""
    assert scored.ids is not None
    assert scored.logp is not None
    return Scored(scored.losses[prompt - 1 :], scored.ids[prompt - 1 :], scored.logp[prompt - 1 :])
