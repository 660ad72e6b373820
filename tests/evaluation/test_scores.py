"""What is scored and how: windows, perplexity, distributions against bf16, what calibration has seen."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.jobs import job
from support.letters import Letters

from qforge.config.evaluation import eval_files
from qforge.config.places import given_path
from qforge.evaluation import chat_judge, contamination, divergence, stability, tasks
from qforge.evaluation.perplexity import beginning, perplexity, positions, windows
from qforge.evaluation.scorers import Scored
from qforge.judge.comparison import main_metric
from qforge.pipeline.checks import check


def test_windows_follow_one_another_and_begin_with_bos_where_the_tokenizer_does() -> None:
    assert windows("abcdef", Letters([]), [3], 2) == [[97, 98, 99], [100, 101, 102]]
    assert windows("abcdef", Letters([1]), [3], 3) == [[1, 97, 98], [1, 99, 100], [1, 101, 102]]
    with pytest.raises(ValueError, match="use at most 2 windows"):
        windows("abcdef", Letters([]), [3], 3)


def test_tasks_are_told_what_the_tokenizer_begins_with() -> None:
    """lm-eval leaves BOS out unless it is told: scorers.py asks this."""
    assert beginning(Letters([1])) == [1]
    assert beginning(Letters([])) == []


def test_windows_take_their_lengths_in_turn_and_more_of_them_begin_with_the_same() -> None:
    text = "abcdefghij"
    assert [len(w) for w in windows(text, Letters([]), [3, 2], 4)] == [3, 2, 3, 2]
    assert windows(text, Letters([]), [3, 2], 4)[:3] == windows(text, Letters([]), [3, 2], 3)
    with pytest.raises(ValueError, match=r"of 3, 2 tokens .* use at most 4 windows"):
        windows(text, Letters([]), [3, 2], 5)


@given(st.lists(st.lists(st.floats(0, 10), min_size=1, max_size=8), min_size=1, max_size=8))
def test_perplexity_is_the_exponential_of_the_mean_loss(losses: list[list[float]]) -> None:
    flat = [x for window in losses for x in window]
    assert perplexity(losses) == pytest.approx(math.exp(sum(flat) / len(flat)))


@given(st.lists(st.integers(1, 700), min_size=1, max_size=5))
def test_every_scored_token_has_a_position(lengths: list[int]) -> None:
    losses = [[float(p) for p in range(1, length + 1)] for length in lengths]  # a token's loss is its position
    found = positions(losses)
    assert sum(found["tokens"]) == sum(lengths)
    assert sum(found["loss"]) == sum(map(sum, losses))
    ends = [*found["from"][1:], math.inf]
    for start, end, tokens, loss in zip(found["from"], ends, found["tokens"], found["loss"], strict=True):
        assert tokens > 0
        assert start <= loss / tokens < end


def test_a_task_with_filters_keeps_them_in_the_names_of_its_metrics() -> None:
    """As lm-eval 0.4.13 gives gsm8k: every sample once per filter."""
    samples = [
        {"doc_id": doc, "doc_hash": f"{doc}" * 64, "filter": name, "prompt_hash": f"p{doc}", "metrics": ["exact_match"],
         "exact_match": right}
        for doc in (1, 0)
        for name, right in (("strict-match", 0.0), ("flexible-extract", 1.0))
    ]  # fmt: skip
    scores = {"alias": "gsm8k", "exact_match,strict-match": 0.0, "exact_match_stderr,strict-match": "N/A",
               "exact_match,flexible-extract": 1.0}  # fmt: skip
    found = tasks.summary(samples, scores)
    assert found["samples"] == 2
    assert found["sample_hashes"] == ["0" * 16, "1" * 16]
    assert found["metrics"] == {"exact_match,strict-match": 0.0, "exact_match,flexible-extract": 1.0}
    assert found["per_sample"]["exact_match,flexible-extract"] == [1.0, 1.0]
    assert main_metric(found) == "exact_match,strict-match"


# -- distributions


def top(logp: np.ndarray, scored: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """What a scorer keeps of full distributions [tokens, vocabulary]."""
    ids = np.column_stack([scored, np.argsort(-logp, axis=1)[:, :k]])
    return ids, np.take_along_axis(logp, ids, 1).astype(np.float32)


def random_pair(seed: int, apart: float, vocabulary: int = 50) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """log p, log q, the scored tokens and the true KL of 40 tokens."""
    random = np.random.default_rng(seed)
    logits = 3 * random.normal(size=(40, vocabulary))
    p, q = (
        np.exp(x) / np.exp(x).sum(1, keepdims=True) for x in (logits, logits + apart * random.normal(size=logits.shape))
    )
    return np.log(p), np.log(q), random.integers(vocabulary, size=40), (p * np.log(p / q)).sum(1)


@pytest.mark.parametrize("seed", range(5))
def test_the_divergence_is_a_lower_bound_that_grows_with_k_and_is_exact_at_the_vocabulary(seed: int) -> None:
    p, q, scored, true = random_pair(seed, apart=0.5)
    found = {k: divergence.token_divergence(*top(p, scored, k), *top(q, scored, k)) for k in (1, 5, 20, 50)}
    for k, (kl, rest) in found.items():
        assert (kl <= true + 1e-4).all(), k
        assert ((rest > 0) & (rest < 1)).all()
    assert found[50][0] == pytest.approx(true, abs=1e-4)
    assert found[20][0].mean() > 0.9 * true.mean()


def test_a_token_that_the_models_top_k_misses_is_among_the_others() -> None:
    """bf16 knows a (0.5) and b (0.3); the model reports a (0.5) and c (0.4): only a is shared, and as likely."""
    reference = np.array([[0, 0, 1]]), np.log(np.array([[0.5, 0.5, 0.3]]))
    other = np.array([[0, 0, 2]]), np.log(np.array([[0.5, 0.5, 0.4]]))
    kl, rest = divergence.token_divergence(*reference, *other)
    assert kl[0] == pytest.approx(0)
    assert rest[0] == pytest.approx(0.5)


def test_a_model_does_not_diverge_from_itself_and_more_noise_is_further_away(tmp_path: Path) -> None:
    def kept(name: str, apart: float) -> Path:
        _, q, scored, _ = random_pair(1, apart)
        ids, logp = top(q, scored, 20)
        folder = tmp_path / name
        folder.mkdir()
        halves = [
            Scored([-float(x) for x in logp[part, 0]], ids[part], logp[part]) for part in (slice(30), slice(30, 40))
        ]
        divergence.save(folder, {"text": halves})
        return folder

    base, near, far = kept("base", 0), kept("near", 0.2), kept("far", 1.0)
    same = divergence.compare(base, base, ["text"])["text"]
    assert (same["kl"], same["top1_agreement"]) == (0, 1)
    assert same["window_tokens"] == [30, 10]
    close, off = (divergence.compare(folder, base, ["text"])["text"] for folder in (near, far))
    assert 0 < close["kl"] < off["kl"]
    assert close["top1_agreement"] > off["top1_agreement"]
    assert sum(off["window_kl"]) == pytest.approx(40 * off["kl"])
    assert sum(off["window_agreed"]) == pytest.approx(40 * off["top1_agreement"])


def test_a_tie_of_bf16_is_no_disagreement() -> None:
    logp = np.log(np.array([[0.1, 0.4, 0.4, 0.1]]))
    ids = np.array([[9, 5, 6, 9]])
    for first, agrees in ((5, True), (6, True), (9, False)):
        assert divergence.top1_agrees(ids, logp, np.array([[9, first, 1, 2]]))[0] == agrees


def test_asking_for_more_than_the_server_gives_is_refused() -> None:
    with pytest.raises(ValueError, match=r"eval\.divergence\.top_k=50: the server gives at most 20; .*max_logprobs=50"):
        check(job("eval.divergence.top_k=50"))
    check(job("eval.divergence.top_k=50", "+runtime.args.max_logprobs=50"))
    check(job("eval.divergence.top_k=50", "+runtime.args.max_logprobs=-1"))  # vLLM's word for all of them
    check(job("eval.divergence.top_k=50", "runtime=transformers"))


@pytest.mark.parametrize(
    ("lengths", "words"),
    [
        ("[]", "at least one entry is needed"),
        ("[1.5]", "above 0 and at most 1 is needed for each"),
        ("[1.0,0.001]", r"each must be a part of eval\.context=1024"),
    ],
)
def test_windows_longer_than_the_context_are_refused(lengths: str, words: str) -> None:
    with pytest.raises(ValueError, match=rf"eval\.lengths=.*: {words}"):
        check(job(f"eval.lengths={lengths}"))


# -- what calibration has seen


def test_calibration_on_wikitext_has_seen_the_kind_of_one_text_and_neither_text_itself() -> None:
    texts, shown = job().eval.texts, job().calib.texts
    files, kinds = [given_path(text.path) for text in shown.values()], {text.kind for text in shown.values()}
    wikitext, manual = (
        contamination.seen(given_path(texts[name].path), texts[name].kind, files, kinds)
        for name in ("wikitext", "python_reference")
    )
    assert (wikitext["kind"], manual["kind"]) == (True, False)
    assert wikitext["overlap"] < 0.001
    assert manual["overlap"] == 0


def test_a_text_that_was_calibrated_on_is_found_out() -> None:
    text = given_path("data/texts/wikitext2_calibration.txt")
    assert contamination.seen(text, "encyclopedia", [text], set()) == {"kind": False, "overlap": 1}


# -- stability


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("The capital of France is Paris.", None),
        ("", "empty"),
        ("#### $$$$ %%%% ####", "mostly symbols"),
        ("I like the sea. " * 12, "repeats itself"),
        ("one two three four five six seven eight nine ten eleven twelve thirteen", None),
    ],
)
def test_degenerate_text_is_known(text: str, said: str | None) -> None:
    assert stability.fault(text) == said


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("eval.long_context.lengths=[4096]", r"4096 tokens .* need runtime\.args\.max_model_len=4112, which is 2048"),
        ("eval.long_context.lengths=[32]", r"at least 128 is needed for each; use eval\.long_context\.lengths=\[128\]"),
        ("eval.long_context.depths=[50]", r"depths=\[50.0\]: at least 0 and at most 1 is needed for each"),
        ("eval.kv_dtypes=[fp8]", r"eval\.kv_dtypes=\['fp8'\]: .* give eval\.long_context\.lengths"),
        ("eval.stability.tokens=1024", r"eval\.stability\.tokens=1024: the answers must be shorter"),
        ("eval.stability.prompts=/no/file", r"eval\.stability\.prompts=/no/file: no such file"),
    ],
)
def test_what_cannot_be_measured_is_refused(override: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        check(job(override))


def test_every_file_that_is_read_is_named() -> None:
    made = job("eval=full", "eval.long_context.families=[keys,question_answering]")
    assert set(eval_files(made.eval)) == {
        "eval.texts.wikitext.path", "eval.texts.python_reference.path", "eval.stability.prompts",
        "eval.long_context.texts.python_reference.path", "eval.long_context.families=question_answering",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("reply", "found"),
    [("It is fine. Rating: [[7]]", 7.0), ("[[8.5]]", 8.5), ("Rating: 7", None), ("[[rating]]", None), ("[[70]]", None)],
)
def test_a_rating_is_read_and_none_is_guessed(reply: str, found: float | None) -> None:
    assert chat_judge.rating(reply) == found
