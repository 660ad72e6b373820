"""Our task files ask what lm-eval's own tasks ask, and score the answers as they do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support.command import ROOT
from support.jobs import job

from qforge.envs import managed, process
from qforge.envs.request import API_KEY
from qforge.pipeline.checks import check

OWN = {
    "arc_easy": "arc_easy",
    "arc_challenge": "arc_challenge",
    "boolq": "boolq",
    "hellaswag": "hellaswag",
    "winogrande": "winogrande",
    "lambada": "lambada_openai",
    "gsm8k": "gsm8k",
    "mmlu": "mmlu",  # 57 tasks, one for each subject
}

# Runs where lm-eval is: both tasks on the same documents, given to lm-eval's own as a data set in memory. For the first
# documents: every request, the target, and what every metric and filter says of an answer.
SCRIPT = """
import json, sys
import datasets
from lm_eval.api.task import ConfigurableTask
from lm_eval.tasks import TaskManager
from lm_eval.tasks._yaml_loader import load_yaml
from qforge.evaluation import tasks
from qforge.config.evaluation import Eval

def answer(instance):
    if instance.request_type == "generate_until":
        return "9 * 2 = 18, so #### 18"
    return -float(len(instance.arguments[1])), len(instance.arguments[1]) % 2 == 0

def asked(task):
    task.set_fewshot_seed(1234)
    task.build_all_requests(limit=4)
    docs = list(task.eval_docs)
    found = []
    for instance in task.instances:
        target = task.doc_to_target(docs[instance.doc_id])
        found.append([instance.request_type, list(map(str, instance.arguments)), str(target)])
        instance.resps = [answer(instance)]
    task.apply_filters()
    for doc_id in sorted({i.doc_id for i in task.instances}):
        own = [i for i in task.instances if i.doc_id == doc_id]
        for name in own[0].filtered_resps:
            scores = task.process_results(docs[doc_id], [i.filtered_resps[name] for i in own])
            found.append([doc_id, name, {metric: str(score) for metric, score in scores.items()}])
    return found

def lm_evals(config, data):
    splits = {"validation_split": None, "test_split": "test"}
    if "train" not in data:
        splits |= {"training_split": None, "fewshot_split": None}
    given = {"dataset_kwargs": None, "metadata": None, "custom_dataset": lambda: data}
    return ConfigurableTask(config={**config, **splits, **given})

def in_memory(dataset):
    scored = dataset.get("validation", dataset.get("test"))
    if "answer" in scored.column_names and "passage" in scored.column_names:  # boolq: as the hub has it
        scored = scored.map(lambda doc: {"label": int(doc["answer"])})
    return datasets.DatasetDict({**dataset, "test": scored})

paths = {name: entry.yaml_path for name, entry in TaskManager().task_index.items()}
found = {}
for name, own in json.loads(sys.argv[1]).items():
    ours = ConfigurableTask(config=tasks.task(Eval(), f"data/tasks/{name}.yaml"))
    data = in_memory(ours.dataset)
    found[name] = [], []
    if own != "mmlu":
        found[name] = asked(ours), asked(lm_evals(load_yaml(paths[own]), data))
        continue
    for subject in sorted(set(data["test"]["subject"])):
        docs = data["test"].filter(lambda doc: doc["subject"] == subject)
        ours.dataset, ours._instances = datasets.DatasetDict({"validation": docs}), None
        theirs = lm_evals(load_yaml(paths[f"mmlu_{subject}"]), datasets.DatasetDict({"test": docs}))
        found[name][0].extend(asked(ours))
        found[name][1].extend(asked(theirs))
answers = {"Paris": ["Paris"], "It is Paris.": ["Paris"], "Rome": ["Paris"], "Pacific Ocean.": ["Pacific", "the Pacific Ocean"]}
task = ConfigurableTask(config=tasks.task(Eval(), "data/tasks/short_answers.yaml"))
scores = {text: task.process_results({"answer": references}, [" " + text]) for text, references in answers.items()}
print(json.dumps({**found, "answers": scores}))
"""


def in_quant(script: str, argument: str) -> dict[str, Any]:
    """What a script prints as JSON where lm-eval is; libraries may speak at their end."""
    environ = {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", API_KEY: "key"}
    with process.process(managed.managed("quant"), ["-c", script, argument], environ) as child:
        output = child.communicate()[0].decode()
    assert child.returncode == 0, output
    found: dict[str, Any] = json.loads(next(line for line in reversed(output.splitlines()) if line.startswith("{")))
    return found


@pytest.fixture(scope="module")
def both() -> dict[str, Any]:
    return in_quant(SCRIPT, json.dumps(OWN))


@pytest.mark.parametrize("name", OWN)
def test_a_task_file_of_ours_is_lm_evals_task_on_other_data(both: dict[str, Any], name: str) -> None:
    ours, theirs = both[name]
    assert len(ours) >= 4
    assert ours == theirs


def test_all_subjects_of_mmlu_are_asked(both: dict[str, Any]) -> None:
    assert len({line[1][0].partition("\n")[0] for line in both["mmlu"][0] if line[0] == "loglikelihood"}) == 57


def test_a_task_whose_data_are_not_there_is_refused() -> None:
    with pytest.raises(ValueError, match=r"piqa\.validation\.jsonl: no such file; give the folder .* eval\.task_data"):
        check(job("eval.tasks=[data/tasks/piqa.yaml]"))


def test_generated_answers_are_scored_by_the_fields_metrics(both: dict[str, Any]) -> None:
    right, wordy, wrong, longer = both["answers"].values()
    assert right == pytest.approx({"contains": 1, "exact_match": 1, "f1": 1, "rougeL": 1, "bleu": 1})
    assert wordy["f1"] == pytest.approx(0.5), "one of three words is right, and the one that was wanted"
    assert wordy["exact_match"] == 0
    assert set(wrong.values()) == {0.0}
    assert (longer["exact_match"], longer["f1"]) == (1, 1), "SQuAD's comparison knows neither articles nor full stops"
    assert 0 < longer["bleu"] < 1


# A model of two layers, and a tokenizer that begins each text with BOS or with nothing, as told: what lm-eval sends of a
# request through the server, and what it finds with transformers beside our own scores of BOS, context and continuation.
BEGINNING = """
import json, sys
from types import SimpleNamespace
import torch
from lm_eval.api.instance import Instance
from lm_eval.api.registry import get_model
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from qforge.envs.request import Request
from qforge.evaluation import scorers

words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(["<s>", "<unk>", "a", "b", "c"])}, "<unk>"))
words.pre_tokenizer = pre_tokenizers.Whitespace()
found = {}
for begins in (True, False):
    if begins:
        words.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 0)])
    else:
        words.post_processor = processors.TemplateProcessing("$A", special_tokens=[])
    folder = f"{sys.argv[1]}/{begins}"
    PreTrainedTokenizerFast(tokenizer_object=words, bos_token="<s>", unk_token="<unk>").save_pretrained(folder)
    torch.manual_seed(0)
    size = {"vocab_size": 5, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    LlamaForCausalLM(LlamaConfig(**size, initializer_range=0.5)).save_pretrained(folder)
    job = SimpleNamespace(
        model=SimpleNamespace(trust_remote_code=False), eval=SimpleNamespace(concurrency=1),
        engine_args={"max_model_len": 64},
    )
    request = Request(job, "", {"artifact": folder}, server="http://127.0.0.1:9")
    name, arguments = scorers.Server(request).for_lm_eval()
    context, continuation = get_model(name).create_from_arg_obj(arguments)._encode_pair("a b", " c")
    direct = scorers.Transformers(request)
    asked = Instance("loglikelihood", {}, ("a b", " c"), 0)
    ((likelihood, _),) = direct.for_lm_eval()[0].loglikelihood([asked], disable_tqdm=True)
    ours = -direct.score([*context, *continuation]).losses[-1]
    found[begins] = [context, continuation, likelihood, ours]
print(json.dumps(found))
"""


def test_the_requests_of_tasks_begin_as_the_tokenizer_begins_a_text(tmp_path: Path) -> None:
    """lm-eval would leave BOS out, and a model that was trained with it answers nonsense."""
    found = in_quant(BEGINNING, str(tmp_path))
    for begins, bos in (("true", [0]), ("false", [])):
        context, continuation, likelihood, ours = found[begins]
        assert (context, continuation) == ([*bos, 2, 3], [4])
        assert likelihood == pytest.approx(ours, abs=0.02), "bf16"
    assert found["true"][2] != found["false"][2]
