"""Text as answers are compared in it: what SQuAD's rule, made for English in ASCII, would otherwise lose or take for equal."""

from __future__ import annotations

import re
import unicodedata

# Thai, Lao, Burmese, Khmer, kana, Han, Hangul: written without spaces between words, or with particles joined to them
WITHOUT_SPACES = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\uf900-\ufaff\U00020000-\U0003ffff"
)
ALONE = re.compile(f"[{WITHOUT_SPACES}]")
MINUS = re.compile(r"(?<!\w)[-\u2212](?=\d)")
POINT = re.compile(r"(?<=\d)\.(?=\d)")


def plain(text: str) -> str:
    """`text` for SQuAD's normalize_answer, which drops case, articles and punctuation in ASCII.

    One form for what looks alike (NFKC: wide digits, small ones, joined accents); punctuation of other scripts goes, a dash
    becomes a space; characters of scripts without spaces are words of their own, as CMRC and MLQA count Chinese; a minus sign
    and a decimal point stay, so that -5 is not 5 and 3.14 not 314.
    """
    text = unicodedata.normalize("NFKC", text)
    text = POINT.sub("point", MINUS.sub("minus", text))
    kinds = [(character, unicodedata.category(character)) for character in text]
    text = "".join(
        character if character.isascii() or kind[0] != "P" else " " if kind == "Pd" else "" for character, kind in kinds
    )
    return ALONE.sub(r" \g<0> ", text)
