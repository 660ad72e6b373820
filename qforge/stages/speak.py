"""Spoken answers: each question asked once, its sound looked at, written down and, where somebody can, listened to."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import httpx

from qforge.envs.request import API_KEY, Failed, Request, stage
from qforge.evaluation import recognizer, sound, speech
from qforge.evaluation.speech import Answer
from qforge.runtimes.vllm import MODEL


def speak(request: Request) -> dict[str, Any]:
    """Returns an entry per question: text, what is wrong with the sound, and times in seconds. Writes answer-N.wav."""
    assert request.server
    settings, samples = request.job.eval.speech, int(request.inputs["samples_per_code"])
    headers = {"Authorization": f"Bearer {os.environ[API_KEY]}"}
    asked = speech.questions(settings.questions)[: settings.limit]
    answers = []
    with httpx.Client(base_url=request.server, headers=headers, trust_env=False) as client:
        speech.ask(client, MODEL, asked[0], settings.tokens)  # the first answer of a server pays for what is made once
        for number, question in enumerate(asked, 1):
            print(f"question {number} of {len(asked)}", flush=True)
            answer = speech.ask(client, MODEL, question, settings.tokens)
            file = Path(request.out, f"answer-{number}.wav")
            answers.append({"question": question, **_entry(answer, samples, file)})
    if settings.recognizer:
        for entry in answers:
            entry["heard"] = recognizer.heard(settings, Path(request.out, str(entry["file"])), str(entry["text"]))
    return {"answers": answers}


def _entry(answer: Answer, samples: int, file: Path) -> dict[str, Any]:
    """Raises Failed where there is no sound that can be read."""
    if not answer.sounds:
        raise Failed(
            f"the server answered {answer.text[:80]!r} in text and sent no sound: its talker or code2wav is at fault"
        )
    try:
        content = sound.joined(answer.sounds)
    except ValueError as error:
        raise Failed(f"the server's sound cannot be read: {error}") from None
    file.write_bytes(content)
    made = sound.read(content)
    about = sound.described(made)
    return {
        "text": answer.text,
        "file": file.name,
        "codes": answer.codes,
        **about,
        "faults": sound.faults(made, answer.codes, samples),
        "first_text_seconds": answer.first_text,
        "first_sound_seconds": answer.first_sound,
        "answer_seconds": answer.seconds,
        "real_time_factor": answer.seconds / about["seconds"] if about["seconds"] else None,
    }


if __name__ == "__main__":
    stage(speak)
