"""How far a model's next-token distributions are from bf16's, token by token, on the same windows.

Both models report, for every scored token, log p of that token and of their own k most likely ones (`eval.divergence`).
The vocabulary is then cut into the tokens that both report, each by itself, and all others together; the divergence is
KL(bf16 || model) in nats between the two distributions over these parts:

    sum over shared t of p(t) * log(p(t) / q(t))  +  p(others) * log(p(others) / q(others))

Putting tokens together never makes a KL divergence larger (the data-processing inequality), so this is a lower bound of
the divergence over the whole vocabulary, and exact where k is the vocabulary. A token of bf16's that the model's top k
misses is among the others: nothing is assumed of its probability. `rest` says how much of bf16's probability that is.

Top-1 agreement is the share of tokens at which the model's most likely token is bf16's, or one of those that bf16 finds
equally likely: its logits have 8 bits, so ties are common. Both ways of scoring give the same table, so that the
definitions are the same with and without a server.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from qforge.evaluation.perplexity import positions

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from qforge.evaluation.scorers import Scored

FILE = "tops.npz"  # per text: <name>/ids int32 and <name>/logp float32 [tokens, 1 + k], <name>/window_tokens
SMALLEST = 1e-6  # of the others' probability: below it, the float32 sum of the shared ones says nothing


def save(folder: Path, texts: dict[str, list[Scored]]) -> None:
    """Keep the tables of the windows that are compared, beside the stage's result."""
    import numpy as np

    arrays: dict[str, Any] = {}
    for name, windows in texts.items():
        arrays[f"{name}/ids"] = np.concatenate([window.ids for window in windows])
        arrays[f"{name}/logp"] = np.concatenate([window.logp for window in windows])
        arrays[f"{name}/window_tokens"] = np.array([len(window.losses) for window in windows])
    np.savez_compressed(folder / FILE, **arrays)


def compare(folder: Path, baseline: Path, texts: list[str]) -> dict[str, Any]:
    """The divergence of the model scored in `folder` from the one in `baseline` (folders of evaluate's results)."""
    import numpy as np

    with np.load(folder / FILE) as own, np.load(baseline / FILE) as reference:
        return {name: _text(own, reference, name) for name in texts}


def _text(own: Any, baseline: Any, name: str) -> dict[str, Any]:
    import numpy as np

    ids, reference = own[f"{name}/ids"], baseline[f"{name}/ids"]
    assert np.array_equal(ids[:, 0], reference[:, 0]), f"{name}: not the same tokens"
    kl, rest = token_divergence(reference, baseline[f"{name}/logp"], ids, own[f"{name}/logp"])
    agreed = top1_agrees(reference, baseline[f"{name}/logp"], ids)
    tokens = own[f"{name}/window_tokens"]
    cuts = np.cumsum(tokens)[:-1]
    return {
        "kl": float(kl.mean()),
        "kl_p99": float(np.percentile(kl, 99)),
        "top1_agreement": float(agreed.mean()),
        "tokens": len(kl),
        "rest": float(rest.mean()),
        "window_tokens": tokens.tolist(),
        "window_kl": [float(part.sum()) for part in np.split(kl, cuts)],
        "positions": _by_position(np.split(kl, cuts)),
        "window_agreed": [int(part.sum()) for part in np.split(agreed, cuts)],
    }


def _by_position(windows: list[NDArray[Any]]) -> dict[str, list[Any]]:
    """Sums of KL in nats by position, in the bins of perplexity.positions: divided by their tokens they are means."""
    bins = positions([list(map(float, window)) for window in windows])
    return {"from": bins["from"], "tokens": bins["tokens"], "kl": bins["loss"]}


def top1_agrees(ids: NDArray[Any], logp: NDArray[Any], other_ids: NDArray[Any]) -> NDArray[Any]:
    """Per token: whether the other's most likely token has the first's highest probability. All [tokens, 1 + k]."""
    agrees: NDArray[Any] = ((ids == other_ids[:, 1:2]) & (logp == logp[:, 1:2])).any(1)
    return agrees


def token_divergence(
    ids: NDArray[Any], logp: NDArray[Any], other_ids: NDArray[Any], other_logp: NDArray[Any]
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Per token: KL in nats of `other` from the first, and the first's probability of what is not shared.

    All arguments are [tokens, 1 + k], as `Scored` has them.
    """
    import numpy as np

    same = ids[:, :, None] == other_ids[:, None, :]  # [tokens, 1 + k, 1 + k]
    shared = same.any(2)
    shared[:, 0] &= ~(ids[:, :1] == ids[:, 1:]).any(1)  # the scored token may be one of the top k: count it once
    p = np.where(shared, np.exp(logp.astype(np.float64)), 0)
    log_q = np.take_along_axis(other_logp.astype(np.float64), same.argmax(2), 1)
    q = np.where(shared, np.exp(log_q), 0)
    rest_p, rest_q = (np.maximum(1 - x.sum(1), SMALLEST) for x in (p, q))
    kl = (p * (logp - log_q)).sum(1) + rest_p * np.log(rest_p / rest_q)
    return np.maximum(kl, 0), rest_p
