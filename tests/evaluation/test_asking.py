"""Questions asked through a chat API: what is sent, what is kept, what is counted, and what is refused before the first."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import jinja2
import pytest
from support.checkpoints import in_quant
from support.jobs import job

from qforge.config.evaluation import Eval
from qforge.envs.request import API_KEY, Failed, Request
from qforge.evaluation import answered, chat_judge, own_tasks
from qforge.evaluation.asking import Chat, faults
from qforge.evaluation.scorers import Server

CHATML = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
THINKS = CHATML + "{% if enable_thinking is defined and not enable_thinking %}<think></think>{% endif %}"  # as Qwen3's
NO_SYSTEM = (
    "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}" + CHATML
)


class Tokenizer:
    """Of a model that does not exist: its template alone."""

    all_special_tokens = ("<|im_end|>",)

    def __init__(self, template: str | None = CHATML) -> None:
        self.chat_template = template

    def apply_chat_template(self, messages: list[dict[str, str]], **options: Any) -> str:
        def refuse(message: str) -> None:
            raise jinja2.TemplateError(message)

        template = jinja2.Environment().from_string(str(self.chat_template))
        return template.render(messages=messages, raise_exception=refuse, **options)


class Api(ThreadingHTTPServer):
    """Answers as vLLM's chat API does, as `says` tells it to; keeps what it was sent."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.sent: list[dict[str, Any]] = []
        self.says: dict[str, Any] = {}  # by the last message
        self.text = "Paris."  # what it answers to all others


class Handler(BaseHTTPRequestHandler):
    server: Api

    def do_GET(self) -> None:
        self._reply(200, {"data": [{"max_model_len": 2048}]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.sent.append(body)
        said = self.server.says.get(body["messages"][-1]["content"], {})
        time.sleep(said.get("seconds", 0))
        if "garbage" in said:
            return self._send(200, said["garbage"])
        if "error" in said:
            return self._reply(400, {"error": {"message": said["error"]}})
        message = {
            "content": self.server.text,
            "reasoning": None,
            "tool_calls": [],
            **said.get("message", {}),
        }
        choice = {"message": message, "finish_reason": said.get("finish", "stop")}
        return self._reply(200, {"choices": [choice], "usage": {"completion_tokens": 3}})

    def _reply(self, code: int, content: Any) -> None:
        self._send(code, json.dumps(content))

    def _send(self, code: int, text: str) -> None:
        self.send_response(code)
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Iterator[Api]:
    monkeypatch.setenv(API_KEY, "key")
    with Api() as served:
        threading.Thread(target=served.serve_forever, args=(0.02,), daemon=True).start()
        yield served
        served.shutdown()


def chat(api: Api, journal: Path, *overrides: str, template: str | None = CHATML) -> Chat:
    made = job(*overrides)
    server = Server(Request(made, "", server=f"http://127.0.0.1:{api.server_port}"))
    journal.touch()
    return Chat(server, made.eval, Tokenizer(template), journal)


def test_what_is_asked_is_what_the_job_says(api: Api, tmp_path: Path) -> None:
    asks = chat(
        api,
        tmp_path / "j",
        "eval.system=Be brief.",
        "eval.thinking=false",
        "eval.temperature=0.7",
        "eval.top_p=0.9",
        template=THINKS,
    )
    (answer,) = asks.ask([asks.body([{"role": "user", "content": "Capital of France?"}], 7, max_tokens=24)], "x")
    assert answer == {"text": "Paris.", "thoughts": None, "calls": [], "finish": "stop", "tokens": 3, "faults": []}
    (sent,) = api.sent
    assert [m["content"] for m in sent["messages"]] == ["Be brief.", "Capital of France?"]
    assert (sent["seed"], sent["temperature"], sent["top_p"], sent["max_tokens"]) == (7, 0.7, 0.9, 24)
    assert sent["chat_template_kwargs"] == {"enable_thinking": False}


def test_the_budget_of_the_job_wins_over_the_tasks(api: Api, tmp_path: Path) -> None:
    asks = chat(api, tmp_path / "j", "eval.answer_tokens=512")
    assert asks.body([], 0, max_tokens=24)["max_tokens"] == 512


def test_a_killed_run_asks_only_what_was_not_answered(api: Api, tmp_path: Path) -> None:
    journal = tmp_path / "j"
    asks = chat(api, journal)
    bodies = [asks.body([{"role": "user", "content": str(n)}], 0) for n in range(5)]
    first = asks.ask(bodies[:3], "x")
    with journal.open("a") as file:
        file.write('{"key": "cut o')  # killed while it wrote
    again = chat(api, journal)
    assert again.ask(bodies, "x")[:3] == first
    assert len(api.sent) == 5
    assert chat(api, journal).ask(bodies, "x")
    assert len(api.sent) == 5, "the line that was cut off has spoiled none after it"


@pytest.mark.parametrize(
    ("said", "found"),
    [
        ({}, []),
        ({"finish": "length"}, ["cut_off"]),
        ({"message": {"content": "so and so on " * 40}}, ["looping"]),
        ({"message": {"content": " \n"}}, ["empty"]),
        ({"message": {"content": "Paris.<|im_end|>\nuser"}}, ["template"]),
        ({"message": {"content": '<tool_call>{"name": '}}, ["tool_call"]),
        ({"message": {"content": None, "tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]}}, []),
        ({"error": "This model's maximum context length is 2048 tokens"}, ["no_room"]),
    ],
)
def test_what_goes_wrong_is_counted(api: Api, tmp_path: Path, said: dict[str, Any], found: list[str]) -> None:
    asks, api.says["q"] = chat(api, tmp_path / "j"), said
    (answer,) = asks.ask([asks.body([{"role": "user", "content": "q"}], 0)], "x")
    assert answer["faults"] == found


def test_thoughts_count_as_said_but_not_as_the_answer() -> None:
    answer = {"text": "", "thoughts": "well " * 60, "calls": [], "finish": "length", "tokens": 60}
    assert faults(answer, []) == ["cut_off", "looping", "empty"]


@pytest.mark.parametrize(
    ("template", "overrides", "message"),
    [
        (None, ["eval.chat=true"], r"eval\.chat=true: this model has no chat template, a base model cannot chat"),
        (NO_SYSTEM, ["eval.system=x"], r"eval\.system: the model's chat template takes no system message: System role not"),
        ("{% broken", [], r"eval\.chat: the model's chat template is broken"),
        (CHATML, ["eval.thinking=false"], r"eval\.thinking=false: the model's chat template does not look at enable_thinking"),
        (CHATML, ["eval.answer_tokens=4096", "runtime=existing", "runtime.python=/x"], "has a context of 2048 tokens"),
    ],
)  # fmt: skip
def test_what_no_question_could_mend_is_refused_before_the_first(
    api: Api, tmp_path: Path, template: str | None, overrides: list[str], message: str
) -> None:
    asks = chat(api, tmp_path / "j", *overrides, template=template)
    with pytest.raises(ValueError, match=message):
        asks.ask([asks.body([], 0)], "x")
    assert not api.sent


def test_a_template_that_refuses_the_system_message_may_be_asked_without(api: Api, tmp_path: Path) -> None:
    chat(api, tmp_path / "j", template=NO_SYSTEM).check()


def test_a_server_without_a_parser_is_refused_with_the_options_that_it_needs(api: Api, tmp_path: Path) -> None:
    api.says["q"] = {"error": '"auto" tool choice requires --enable-auto-tool-choice and --tool-call-parser to be set'}
    asks = chat(api, tmp_path / "j")
    with pytest.raises(ValueError, match=r"\+model\.args\.enable_auto_tool_choice=true"):
        asks.ask([asks.body([{"role": "user", "content": "q"}], 0, tools=[])], "x")


def test_a_judge_that_is_away_is_refused_before_anything_is_measured(api: Api) -> None:
    api.text = "[[5]]"
    made = job(f"eval.judge.base_url=http://127.0.0.1:{api.server_port}/v1", "eval.judge.model=m")
    chat_judge.Judge(made.eval.judge).greet()
    made.eval.judge.base_url = "http://127.0.0.1:9/v1"
    with pytest.raises(ValueError, match=r"eval\.judge\.base_url=http://127\.0\.0\.1:9/v1: model 'm' does not answer"):
        chat_judge.Judge(made.eval.judge).greet()


SCHEMA = {"type": "object", "properties": {"minutes": {"type": "integer"}}, "required": ["minutes"]}
TOOL = {"name": "set_timer", "parameters": SCHEMA}


def test_functions_are_asked_for_called_and_scored(api: Api, tmp_path: Path) -> None:
    """A template that shows none: the model is told in the system message. Of two seeds a score is the mean."""
    file = tmp_path / "tools.jsonl"
    file.write_text(
        json.dumps({"question": "q", "tools": [TOOL], "call": {"name": "set_timer", "arguments": {"minutes": 5}}})
    )
    api.says["q"] = {
        "message": {"content": "", "tool_calls": [{"function": {"name": "set_timer", "arguments": '{"minutes": 5}'}}]}
    }
    asks = chat(api, tmp_path / "j", "eval.seeds=2", "eval.temperature=0.7")
    found, records = own_tasks.run(asks.settings, str(file), asks.server, asks.tokenizer, asks)
    assert found["metrics"] == {"right_call": 1, "right_function": 1, "valid": 1}
    assert (found["judged"], found["samples"], found["asked"]["answers"]) == ("right_call", 1, 2)
    assert [(r["item"], r["seed"], r["scores"]["right_call"]) for r in records] == [("1", 0, 1), ("1", 1, 1)]
    assert '"name": "set_timer"' in api.sent[0]["messages"][0]["content"]
    assert api.sent[0]["tools"][0]["function"] == TOOL
    assert {body["seed"] for body in api.sent} == {0, 1}


@pytest.mark.parametrize(
    ("template", "overrides", "roles"),
    [
        (CHATML, [], ["system", "user"]),
        (CHATML, ["eval.system=Be brief."], ["system", "user"]),
        (NO_SYSTEM, [], ["user"]),
    ],
)
def test_a_model_is_told_of_its_functions_in_one_message_where_its_template_takes_it(
    api: Api, tmp_path: Path, template: str, overrides: list[str], roles: list[str]
) -> None:
    """Gemma 2 takes no system message, and others no two of them."""
    file = tmp_path / "tools.jsonl"
    file.write_text(json.dumps({"question": "q", "tools": [TOOL], "call": None}))
    asks = chat(api, tmp_path / "j", *overrides, template=template)
    own_tasks.run(asks.settings, str(file), asks.server, asks.tokenizer, asks)
    sent = api.sent[0]["messages"]
    assert [message["role"] for message in sent] == roles
    assert '"name": "set_timer"' in sent[0]["content"]
    assert sent[0]["content"].startswith("Be brief.\n\nYou may call" if overrides else "You may call")
    assert sent[-1]["content"].endswith("q")


# Runs where lm-eval is: gsm8k in chat, with two seeds, against the API whose port is given.
LM_EVAL = """
import json, sys
from pathlib import Path
from types import SimpleNamespace
from qforge.config.evaluation import Eval
from qforge.envs.request import Request
from qforge.evaluation import tasks
from qforge.evaluation.asking import Chat
from qforge.evaluation.scorers import Server

port, folder = json.loads(sys.argv[1])
settings = Eval(tasks=["data/tasks/gsm8k.yaml"], limit=2, seeds=2, temperature=0.7, concurrency=2)
tokenizer = SimpleNamespace(
    chat_template="x", all_special_tokens=["<|im_end|>"],
    apply_chat_template=lambda messages, **options: str(messages),
)
job = SimpleNamespace(eval=settings, hw=SimpleNamespace(vendor=None))
server = Server(Request(job, "", {}, server=f"http://127.0.0.1:{port}"))
Path(folder, "j").touch()
chat = Chat(server, settings, tokenizer, Path(folder, "j"))
found, records = tasks.run(settings, server, tokenizer, chat)
print(json.dumps({"found": found["gsm8k_local"], "records": records}))
"""


def test_lm_evals_tasks_are_asked_as_conversations_with_every_seed(api: Api, tmp_path: Path) -> None:
    api.text = "She makes 9 * 2 = 18. #### 18"
    done = json.loads(in_quant("-c", LM_EVAL, json.dumps([api.server_port, str(tmp_path)])).stdout.splitlines()[-1])
    found, records = done["found"], done["records"]
    assert (found["asked"]["answers"], found["asked"]["seeds"]) == (4, 2)
    assert found["per_sample"]["exact_match,strict-match"] == [1.0, 0.0], "of two problems, each with two seeds"
    assert found["metrics"]["exact_match,strict-match"] == 0.5
    assert [(r["item"], r["seed"], r["scores"]["exact_match,strict-match"]) for r in records] == [
        ("0", 0, 1), ("1", 0, 0), ("0", 1, 1), ("1", 1, 0),
    ]  # fmt: skip
    asked = api.sent[0]["messages"]
    assert [message["role"] for message in asked] == ["user", "assistant"] * 5 + ["user"], "five examples, as turns"
    assert "stop" not in api.sent[0]
    assert {body["seed"] for body in api.sent} == {0, 1}


def test_a_base_model_goes_on_with_a_text_and_is_asked_for_no_call(tmp_path: Path) -> None:
    file = tmp_path / "tools.jsonl"
    file.write_text(json.dumps({"question": "q", "tools": [TOOL], "call": None}))
    with pytest.raises(ValueError, match="which are asked in chat alone"):
        own_tasks.run(Eval(), str(file), SimpleNamespace(parallel=1), Tokenizer(), None)  # type: ignore[arg-type]


def test_means_over_seeds_are_by_item() -> None:
    one = {"metrics": {"m": 0.5}, "per_sample": {"m": [1.0, 0.0]}, "samples": 2}
    two = {"metrics": {"m": 1.0}, "per_sample": {"m": [1.0, 1.0]}, "samples": 2}
    assert answered.across([one, two]) == {"metrics": {"m": 0.75}, "per_sample": {"m": [1.0, 0.5]}, "samples": 2}


def test_sampling_on_a_cpu_asks_one_at_a_time(api: Api, tmp_path: Path) -> None:
    """vLLM's CPU build ends where it cuts the prompt of a request with a seed into pieces."""
    sampled = ("eval.temperature=0.7", "eval.concurrency=4")
    assert chat(api, tmp_path / "j", "hw=cpu", *sampled).parallel == 1
    whole = "+runtime.args.max_num_batched_tokens=8192"
    assert chat(api, tmp_path / "j", "hw=cpu", whole, *sampled).parallel == 4, (
        "four contexts of 2048 tokens fit into a step"
    )
    assert chat(api, tmp_path / "j", "hw=cpu", whole, *sampled, "eval.concurrency=8").parallel == 1
    assert chat(api, tmp_path / "j", "hw=h100", *sampled).parallel == 4
    assert chat(api, tmp_path / "j", "hw=cpu", "eval.temperature=0", "eval.concurrency=4").parallel == 4


@pytest.mark.parametrize("text", ["<html>502 Bad Gateway</html>", '{"choices": []}', "[]", '{"error": null}', ""])
def test_a_server_that_answers_garbage_is_called_so(api: Api, tmp_path: Path, text: str) -> None:
    asks, api.says["q"] = chat(api, tmp_path / "j"), {"garbage": text}
    with pytest.raises(Failed, match="the server's answer to /v1/chat/completions is none of OpenAI's API: "):
        asks.ask([asks.body([{"role": "user", "content": "q"}], 0)], "x")
    assert not (tmp_path / "j").read_text(), "it is no answer that a later run would find"


def test_a_server_that_hangs_is_not_waited_for_for_ever(
    api: Api, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asks, api.says["q"] = chat(api, tmp_path / "j"), {"seconds": 0.5}
    monkeypatch.setattr("qforge.evaluation.asking.HUNG", 0.1)
    monkeypatch.setattr("qforge.evaluation.asking.SLOWEST", 0.001)
    with pytest.raises(Failed, match="the server hangs: it has answered nothing to /v1/chat/completions for"):
        asks.ask([asks.body([{"role": "user", "content": "q"}], 0)], "x")


def test_a_connection_that_breaks_is_no_end(api: Api, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At 128 requests at once httpx closed one that another thread was reading: [Errno 9] Bad file descriptor."""
    asks, whole, broken = chat(api, tmp_path / "j"), httpx.Client.post, iter([True, False])

    def post(client: httpx.Client, *args: Any, **options: Any) -> httpx.Response:
        if next(broken):
            raise httpx.ReadError("[Errno 9] Bad file descriptor")
        return whole(client, *args, **options)

    monkeypatch.setattr(httpx.Client, "post", post)
    (answer,) = asks.ask([asks.body([{"role": "user", "content": "q"}], 0)], "x")
    assert answer["text"] == "Paris."
