"""What calibration shows to the model: cut, freed of repeats, weighted, through the chat template, and written down."""

from __future__ import annotations

import json
import random
import re
from dataclasses import replace
from pathlib import Path

import pytest
from support.jobs import job

from qforge.config.calibration import Calibration, CalibrationText, Dataset
from qforge.envs.request import Refused
from qforge.json_files import read_json
from qforge.pipeline import calibrate
from qforge.pipeline.checks import check
from qforge.pipeline.run import Run
from qforge.stages.calibrate import _cut, _draw, _known


def test_sequences_follow_one_another_in_the_lengths_that_were_asked_for() -> None:
    calib = Calibration("x", {}, 1, 100, [1.0, 0.25, 0.5])
    cut = list(_cut(list(range(999)), calib))
    assert [len(s) for s in cut] == [100, 25, 50] * 5 + [100]
    assert [token for s in cut for token in s] == list(range(975))


def test_a_sequence_that_is_mostly_known_is_a_near_duplicate() -> None:
    chosen = random.Random(0)
    first, other = (tuple(chosen.randrange(10_000) for _ in range(100)) for _ in range(2))
    runs: set[tuple[int, ...]] = set()
    assert not _known(first, runs)
    assert _known((*first[:50], 7, *first[51:]), runs)  # a word was changed
    assert _known((*other[:3], *first[:97]), runs)  # shifted
    assert not _known((*first[:40], *other[40:]), runs)  # begins alike


def test_weights_decide_from_which_text_the_sequences_come() -> None:
    pools = {"a": [(i,) for i in range(100)], "b": [(-i,) for i in range(1, 100)]}
    texts = {name: CalibrationText(weight=weight) for name, weight in (("a", 3.0), ("b", 1.0))}
    drawn = _draw(pools, Calibration("x", texts, 40, 1, seed=1))
    assert sum(s[0] >= 0 for s in drawn) == 30
    assert len(set(drawn)) == 40
    with pytest.raises(Refused, match=r"120 were requested by calib.texts.a.weight, the texts give 100; add a text"):
        _draw(pools, Calibration("x", texts, 160, 1))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["calib.lengths=[1.0,0.0]"], "calib.lengths=[1.0, 0.0]: above 0 and at most 1 is needed for each"),
        (["calib.lengths=[]"], "calib.lengths=[]: at least one entry is needed"),
        (["calib.texts.wikitext.weight=0"], "calib.texts.wikitext.weight=0.0: above 0 is needed"),
        (
            ["calib=hub", "calib.texts.ultrachat.dataset.revision=main"],
            "calib.texts.ultrachat.dataset.revision=main: give the",
        ),
        (
            ["calib=hub", "calib.texts.wikitext.dataset.rows=0"],
            "calib.texts.wikitext.dataset.rows=0: at least 1 is needed",
        ),
        (
            ["calib=hub", "calib.texts.wikitext.path=data/README.md"],
            "it has path=data/README.md and dataset.name=Salesforce",
        ),
        (["calib.texts.wikitext.path=''"], "calib.texts.wikitext.path=: no such file"),
        (["calib.devices=0"], "calib.devices=0: at least 1 is needed; use calib.devices=1"),
        (["calib.devices=65"], "calib.devices=65: use 1 up to calib.sequences=64"),
        (
            ["calib.devices=2", "method=gptqmodel"],
            "calib.devices=2 method=gptqmodel: only llm-compressor's methods share",
        ),
    ],
)
def test_what_cannot_be_is_refused_by_its_key(overrides: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        check(job(*overrides))


def test_weights_are_for_all_texts_or_none() -> None:
    texts = {**job().calib.texts, "b": CalibrationText("data/README.md", "x", "x", weight=1.0)}
    with pytest.raises(ValueError, match="give every text a weight above 0, or give no weights"):
        check(replace(job(), calib=replace(job().calib, texts=texts)))


def sequences_of(model: Path, out: Path, calib: Calibration) -> tuple[dict, list[list[int]]]:
    folder = calibrate.calibrate(Run(replace(job(f"store={out}"), calib=calib), out / "run"), model)
    return read_json(folder / "result.json"), json.loads((folder / "sequences.json").read_text())


def test_two_sources_one_of_them_conversations(model: Path, tmp_path: Path) -> None:
    lines = [{"messages": [{"role": "user", "content": f"How much is {n} and {n * n}?"},
                           {"role": "assistant", "content": f"{n + n * n}, of course."}]} for n in range(300)]  # fmt: skip
    (tmp_path / "chat.jsonl").write_text("\n".join(map(json.dumps, lines)))
    texts = {
        "wikitext": replace(job().calib.texts["wikitext"], weight=3.0),
        "chat": CalibrationText(str(tmp_path / "chat.jsonl"), "chat", "ours", weight=1.0, chat=True),
    }
    found, sequences = sequences_of(model, tmp_path, Calibration("two", texts, 8, 128, [1.0, 0.5]))
    used = found["texts"]
    assert (used["wikitext"]["used"], used["chat"]["used"]) == (6, 2)
    assert found["tokens"] == used["wikitext"]["used_tokens"] + used["chat"]["used_tokens"]
    assert sum(int(length) * count for length, count in found["lengths"].items()) == found["tokens"]
    assert used["chat"]["near_duplicates"] > 0  # the same two sentences with other numbers
    start = json.loads((model / "tokenizer.json").read_text())["added_tokens"]
    (im_start,) = [token["id"] for token in start if token["content"] == "<|im_start|>"]
    assert sum(im_start in sequence for sequence in sequences) == 2
    rows = tmp_path / "set" / "train.jsonl"  # the same conversations as a data set
    rows.parent.mkdir()
    rows.write_text("\n".join(json.dumps({"said": line["messages"], "n": n}) for n, line in enumerate(lines)))
    as_set = replace(texts["chat"], path="", dataset=Dataset(str(rows.parent), column="said", rows=300))
    again, same = sequences_of(model, tmp_path, Calibration("two", {**texts, "chat": as_set}, 8, 128, [1.0, 0.5]))
    assert same == sequences
    assert again["texts"]["chat"] | {"dataset": None, "path": texts["chat"].path} == used["chat"]


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        (Dataset("somebody/nothing", "0" * 40, rows=1), "somebody/nothing: cannot be read ("),
        (Dataset("{folder}", split="valid", rows=1), "cannot be read (Bad split: valid. Available splits: ['train']"),
        (Dataset("{folder}", column="said", rows=1), "dataset.column=said: {folder} has text, n"),
        (Dataset("{folder}", column="n", rows=1), "dataset.column=n: is not text; give another column, or chat=true"),
    ],
)
def test_a_data_set_that_cannot_be_had_is_refused_in_its_librarys_words(
    model: Path, tmp_path: Path, dataset: Dataset, message: str
) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set/train.jsonl").write_text('{"text": "Once.", "n": 1}\n')
    folder = str(tmp_path / "set")
    text = CalibrationText(kind="x", licence="x", dataset=replace(dataset, name=dataset.name.format(folder=folder)))
    with pytest.raises(ValueError, match=re.escape(message.format(folder=folder))):
        sequences_of(model, tmp_path, Calibration("x", {"some": text}, 1, 8))
    assert not list(tmp_path.glob("dataset/*/"))
