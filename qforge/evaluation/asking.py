"""Ask a model as its users do, through /v1/chat/completions in the model's own template; and what can go wrong with an answer.

Every answer is written down at once in a journal (journal.py) that belongs to the served checkpoint. `faults` of an answer:

- cut_off: the budget of tokens ended it (finish_reason `length`)
- looping: more than half of its 4-grams have been there before, or it is the same few words (stability.py)
- empty: no text, and no function is called
- template: a special token of the tokenizer stands in it as text, so the template or the end of the answer is broken
- tool_call: it holds the beginning of a call that the server's parser did not understand
- no_room: the prompt does not fit into the context; nothing was answered. A budget of which only a part fits is shortened
  by the server, and ends as cut_off
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from qforge.config.evaluation import Eval
from qforge.config.job import Vendor
from qforge.envs.request import Refused
from qforge.evaluation import stability, tool_calls
from qforge.evaluation.journal import Journal
from qforge.evaluation.scorers import HUNG, Server, content_of
from qforge.runtimes.vllm import MODEL, not_language

FAULTS = ("cut_off", "looping", "empty", "template", "tool_call", "no_room")
TOKENS = 256  # of an answer, where neither eval.answer_tokens nor the task says; lm-eval's own default
SLOWEST = 2.0  # seconds more than HUNG for each token that an answer may have, others being answered at the same time
CALL = re.compile(r"<tool_call>|<function=|\[TOOL_CALLS\]|<\|python_tag\|>")  # how calls begin in the common formats
NO_ROOM = re.compile(r"maximum (context|model) length")

Message = dict[str, str]
Record = dict[str, Any]


class Chat:
    """The server's chat API, with eval's way of sampling."""

    def __init__(self, server: Server, settings: Eval, tokenizer: Any, journal: Path) -> None:
        self.server, self.settings, self.tokenizer = server, settings, tokenizer
        self.parallel = server.parallel
        if settings.temperature > 0 and server.request.job.hw.vendor is Vendor.cpu and not _whole(server):
            # vLLM's CPU build ends where it cuts the prompt of a request with a seed into pieces (0.32,
            # gpu_model_runner.py:3502: its random generator has no offset); one that is alone is read whole
            self.parallel = 1
        self.special = [token for token in set(tokenizer.all_special_tokens) if len(token) > 2]
        self.journal, self.checked = Journal(journal), False

    def body(self, messages: Sequence[Message], seed: int, **options: Any) -> Record:
        """A request. `options`: of OpenAI's API, such as max_tokens, stop and tools."""
        settings = self.settings
        system = self._system()
        if system and messages and messages[0]["role"] == "system":  # of a task: many templates take one alone
            system = [{"role": "system", "content": f"{settings.system}\n\n{messages[0]['content']}"}]
            messages = messages[1:]
        told = {"enable_thinking": settings.thinking} if settings.thinking is not None else None
        return {
            "model": MODEL, "messages": [*system, *messages], "seed": seed, "temperature": settings.temperature,
            "top_p": settings.top_p, **({"chat_template_kwargs": told} if told else {}), **options,
            "max_tokens": settings.answer_tokens or options.get("max_tokens") or TOKENS,
        }  # fmt: skip

    def ask(self, bodies: Sequence[Record], what: str) -> list[Record]:
        """The answers, in order, `parallel` of them asked at once; `what` is for the bar. Raises Refused as `check` does."""
        from tqdm import tqdm

        self.check()
        with ThreadPoolExecutor(self.parallel) as pool:
            return list(tqdm(pool.map(self._answer, bodies), total=len(bodies), desc=what))

    def shows_tools(self, tools: list[Record]) -> bool:
        """Whether the template tells the model of its functions."""
        message = [{"role": "user", "content": "a"}]
        return self._render(message) != self._render(
            message, tools=[{"type": "function", "function": t} for t in tools]
        )

    def behind(self, told: str, question: str) -> list[Message]:
        """A question and what the model is told before it: in a system message, where the template takes any."""
        import jinja2

        messages = [{"role": "system", "content": told}, {"role": "user", "content": question}]
        try:
            self._render(messages)
        except jinja2.TemplateError:
            return [{"role": "user", "content": f"{told}\n\n{question}"}]
        return messages

    def check(self) -> None:
        """Refuse what no question could mend, before the first is asked."""
        import jinja2

        if self.checked:
            return
        self.checked = True
        question = {"role": "user", "content": "a"}
        if self.tokenizer.chat_template is None:
            raise Refused(
                "eval.chat=true: this model has no chat template, a base model cannot chat; use eval.chat=false"
            )
        try:
            self._render([question])
        except jinja2.TemplateError as error:
            raise Refused(
                f"eval.chat: the model's chat template is broken: {error}; mend it, or use eval.chat=false"
            ) from None
        try:
            self._render([*self._system(), question])
        except jinja2.TemplateError as error:
            raise Refused(
                f"eval.system: the model's chat template takes no system message: {error}; leave it out"
            ) from None
        if self.settings.thinking is not None and not self._may_think(question):
            raise Refused(
                f"eval.thinking={str(self.settings.thinking).lower()}: the model's chat template does not look at "
                "enable_thinking, so this changes nothing; leave it out"
            )
        budget, room = self.settings.answer_tokens or 0, self.server.context()
        if budget >= room:
            raise Refused(
                f"eval.answer_tokens={budget}: the server has a context of {room} tokens, and the question needs some; use "
                "less, or a larger runtime.args.max_model_len"
            )

    def _may_think(self, question: Message) -> bool:
        """Whether the template looks at enable_thinking."""
        import jinja2

        messages = [*self._system(), question]
        try:
            other = self._render(messages, enable_thinking=not self.settings.thinking)
        except jinja2.TemplateError:  # of a template that refuses the other value
            return True
        return other != self._render(messages)

    def _system(self) -> list[Message]:
        return [{"role": "system", "content": self.settings.system}] if self.settings.system else []

    def _render(self, messages: list[Message], **options: Any) -> str:
        told = {"enable_thinking": self.settings.thinking} if self.settings.thinking is not None else {}
        options = {"tokenize": False, "add_generation_prompt": True, **told, **options}
        return str(self.tokenizer.apply_chat_template(messages, **options))

    def _answer(self, body: Record) -> Record:
        answer = self.journal.find(body)
        if answer is None:
            answer = self._asked(body)
            self.journal.keep(body, answer)
        return {**answer, "faults": faults(answer, self.special)}

    def _asked(self, body: Record) -> Record:
        reply = self.server.post("/v1/chat/completions", body, HUNG + body["max_tokens"] * SLOWEST)
        if reply.status_code == 400 and NO_ROOM.search(reply.text):
            return {"text": "", "thoughts": None, "calls": [], "finish": "no_room", "tokens": 0}
        if reply.status_code == 400 and "--enable-auto-tool-choice" in reply.text:
            raise Refused(
                f"eval.tasks: the server parses no tool calls; give the parser of this model, for instance {tool_calls.PARSER}"
            )
        content = content_of(reply)
        choice = content["choices"][0]
        message = choice["message"]
        return {
            "text": message.get("content") or "",
            "thoughts": message.get("reasoning") or message.get("reasoning_content"),
            "calls": [call["function"] for call in message.get("tool_calls") or []],
            "finish": choice["finish_reason"],
            "tokens": content["usage"]["completion_tokens"],
        }


def _whole(server: Server) -> bool:
    """Whether all requests in flight fit into one step, as long as they may be: then no prompt is cut."""
    options = server.request.job.engine_args
    step, room = options.get("max_num_batched_tokens"), options.get("max_model_len")
    return isinstance(step, int) and isinstance(room, int) and step >= server.parallel * room


def faults(answer: Record, special: Sequence[str]) -> list[str]:
    """What went wrong with an answer, in the words of the module's docstring."""
    text, finish = answer["text"], answer["finish"]
    if finish == "no_room":
        return ["no_room"]
    whole = f"{answer['thoughts'] or ''} {text}"
    found = {
        "cut_off": finish == "length",
        "looping": stability.fault(whole) == "repeats itself" or not_language(whole) == "the same words repeated",
        "empty": not text.strip() and not answer["calls"],
        "template": any(token in text for token in special),
        "tool_call": not answer["calls"] and CALL.search(text) is not None,
    }
    return [name for name, there in found.items() if there]
