"""Words to be counted over a whole prompt: RULER's aggregation (Hsieh et al. 2024, arXiv 2404.06654).

- common words (cwe): ten words stand in a numbered list 30 times each and the others 3 times, below 4,096 tokens 6 times and
  once; the ten are asked for. A longer list has more of the others
- frequent words (fwe): made-up words of six letters, the k-th of them as often as the zeta distribution with exponent 2 has it.
  The first one is dots, to be ignored; the next three are asked for. There are as many words as a fiftieth of the tokens

Formats, counts and the tokens of an answer are those of RULER as lm-eval has it, which shows no solved example before common
words either. lm-eval's own functions are not used: one takes its words from a package that is not installed here, the other
draws from Python's shared random state, so that its prompts depend on what ran before. The words here are those of four letters
and more of the WikiText that comes with qforge; where they run out they begin anew. Neither family has a depth: each column of
its table is further prompts.
"""

from __future__ import annotations

import math
import random
import re
import string

from qforge.config.evaluation import FAMILIES
from qforge.config.places import given_path
from qforge.evaluation.long_prompt import LongPrompt

COMMON = 10  # words
FREQUENT = 3
OFTEN, SELDOM = 30, 3  # times that a word is in the list
SHORT = 4096  # tokens; below
SHORT_OFTEN, SHORT_SELDOM = 6, 1
LETTERS = 6  # of a made-up word
PER_WORD = 50  # tokens of the prompt
EXPONENT = 2
ZETA = math.pi**2 / 6  # of 2
DOTS = "..."
LIST = (
    "Below is a numbered list of words. In these words, some appear more often than others. Memorize the ones that appear most "
    "often."
)
ASKED = (
    "Question: What are the 10 most common words in the above list? Answer: The top 10 words that appear most often in the "
    "list are:"
)
CODED = (
    "Read the following coded text and track the frequency of each coded word. Find the three most frequently appeared coded "
    "words."
)
ASKED_OF_CODE = (
    "Question: Do not provide any explanation. Please ignore the dots '....'. What are the three most frequently appeared "
    "words in the above coded text? Answer: According to the coded text above, the three most frequently appeared words are:"
)


def common(drawn: random.Random, length: int) -> LongPrompt:
    """The ten words that stand most often in a numbered list; a piece is another word that stands there."""
    words = _words()
    drawn.shuffle(words)
    wanted, others = words[:COMMON], words[COMMON:]
    often, seldom = (OFTEN, SELDOM) if length >= SHORT else (SHORT_OFTEN, SHORT_SELDOM)
    seed = drawn.random()

    def text(count: int) -> str:
        listed = wanted * often + [others[i % len(others)] for i in range(count)] * seldom
        random.Random(seed).shuffle(listed)
        return "\n".join([LIST, " ".join(f"{i}. {word}" for i, word in enumerate(listed, 1)), ASKED])

    return LongPrompt(text, wanted, FAMILIES["common_words"].answer)


def frequent(drawn: random.Random, length: int) -> LongPrompt:
    """The three made-up words that stand most often in a text; a piece is a place in it."""
    coded = ("".join(drawn.choices(string.ascii_lowercase, k=LETTERS)) for _ in range(length // PER_WORD))
    words = [DOTS, *dict.fromkeys(coded)]
    seed = drawn.random()

    def text(count: int) -> str:
        listed = [word for k, word in enumerate(words, 1) for _ in range(int(count / (ZETA * k**EXPONENT)))]
        random.Random(seed).shuffle(listed)
        return f"{CODED} {' '.join(listed)}\n{ASKED_OF_CODE}"

    return LongPrompt(text, words[1 : 1 + FREQUENT], FAMILIES["frequent_words"].answer)


def _words() -> list[str]:
    text = given_path(FAMILIES["common_words"].file).read_text()
    return sorted(set(re.findall(r"\b[a-z]{4,}\b", text)))
