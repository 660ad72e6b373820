"""The chat API as lm-eval's model: its generative tasks, asked as conversations. Imported where lm-eval is.

A task's stop strings end the continuation of a text. An answer in chat ends by itself or by its budget, as it does for users:
none is sent.
"""

from __future__ import annotations

import json
from typing import Any

from lm_eval.api.model import LM

from qforge.evaluation.asking import Chat


class ChatModel(LM):  # type: ignore[misc]
    """Asks each question with every seed at once; lm-eval scores one seed after the other: `seed` says which."""

    def __init__(self, chat: Chat, seeds: int) -> None:
        super().__init__()
        self.chat, self.seeds, self.seed = chat, seeds, 0
        self.answers: dict[tuple[int, str], dict[str, Any]] = {}  # by seed and conversation

    @property
    def tokenizer_name(self) -> str:
        return "chat"

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """The conversation itself: the server applies the template."""
        return json.dumps(chat_history)

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        contexts = [request.args[0] for request in requests]
        if (self.seed, contexts[0]) not in self.answers:
            asked = [(seed, *request.args) for seed in range(self.seeds) for request in requests]
            answers = self.chat.ask([self._body(*one) for one in asked], f"{requests[0].task_name} in chat")
            self.answers |= {(one[0], one[1]): answer for one, answer in zip(asked, answers, strict=True)}
        return [self.answers[self.seed, context]["text"] for context in contexts]

    def _body(self, seed: int, context: str, options: dict[str, Any]) -> dict[str, Any]:
        messages = json.loads(context)
        begun = {"continue_final_message": True, "add_generation_prompt": False}  # the task begins the answer
        more = begun if messages[-1]["role"] == "assistant" else {}
        return self.chat.body(messages, seed, max_tokens=options.get("max_gen_toks"), **more)

    def loglikelihood(self, requests: list[Any]) -> list[tuple[float, bool]]:
        raise AssertionError("tasks of likelihoods are not asked in chat")

    def loglikelihood_rolling(self, requests: list[Any]) -> list[float]:
        raise AssertionError("tasks of likelihoods are not asked in chat")
