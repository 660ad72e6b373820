"""A spoken answer as sound: what a WAV file holds, and what is wrong with it, without any model that listens."""

from __future__ import annotations

import io
import wave
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from qforge.config.speech import RATE

if TYPE_CHECKING:
    from numpy.typing import NDArray

WIDTH = 2  # bytes of a sample
FULL = 2**15
SILENT_DBFS = -60.0  # RMS about the mean in dB of full scale, below which no speech is heard
CLIPPED = 0.05  # of all samples at full scale, above which it is a square wave
# a code sounds a step after it is made, and code2wav cuts its ends (ran: of 50 codes 93,525 samples, as many as of 48.7)
CODES_APART = 2


@dataclass(frozen=True)
class Sound:
    """`samples`: int16, one channel after the other in each moment, as the file has them."""

    rate: int
    channels: int
    width: int
    samples: NDArray[Any]

    @property
    def seconds(self) -> float:
        return len(self.samples) / self.channels / self.rate


def read(content: bytes) -> Sound:
    """What a WAV file holds. Raises ValueError where it is none, or not of integers."""
    import numpy as np

    try:
        with wave.open(io.BytesIO(content)) as file:
            rate, channels, width = file.getframerate(), file.getnchannels(), file.getsampwidth()
            frames = file.readframes(file.getnframes())
    except (wave.Error, EOFError) as error:
        raise ValueError(f"it is no WAV file of whole numbers ({error})") from None
    return Sound(rate, channels, width, np.frombuffer(frames if width == WIDTH else b"", np.int16))


def joined(parts: Sequence[bytes]) -> bytes:
    """One WAV file of the pieces in which a server sends an answer, each a file of its own. Raises ValueError as `read`."""
    sounds = [read(part) for part in parts]
    output = io.BytesIO()
    with wave.open(output, "wb") as file:
        file.setparams((sounds[0].channels, sounds[0].width, sounds[0].rate, 0, "NONE", ""))
        for sound in sounds:
            file.writeframes(sound.samples.tobytes())
    return output.getvalue()


def described(sound: Sound) -> dict[str, float]:
    """Seconds, RMS about the mean (a constant makes no sound) and peak, both in dB of full scale, and the share of samples at
    full scale."""
    import numpy as np

    levels = sound.samples.astype(np.float64) / FULL if len(sound.samples) else np.zeros(1)
    peak = float(np.abs(levels).max())
    rms_dbfs, peak_dbfs = (20 * float(np.log10(max(level, 1e-6))) for level in (float(levels.std()), peak))
    clipped = float((np.abs(levels) >= (FULL - 1) / FULL).mean())
    return {"seconds": sound.seconds, "rms_dbfs": rms_dbfs, "peak_dbfs": peak_dbfs, "clipped": clipped}


def faults(sound: Sound, codes: int | None, samples_per_code: int) -> list[str]:
    """What is wrong, each in a few words. `codes`: steps of the talker that it was made of; none where they are not known."""
    found = []
    if (sound.rate, sound.channels, sound.width) != (RATE, 1, WIDTH):
        bits = 8 * sound.width
        found.append(
            f"{sound.rate} Hz, {sound.channels} channels of {bits} bits, not {RATE} Hz, one of {8 * WIDTH} bits"
        )
    if not len(sound.samples):
        return [*found, "no sample"]
    about = described(sound)
    if about["rms_dbfs"] < SILENT_DBFS:
        found.append(f"silence ({about['rms_dbfs']:.0f} dB of full scale)")
    if about["clipped"] > CLIPPED:
        found.append(f"clipped ({about['clipped']:.0%} of its samples)")
    heard = len(sound.samples) / sound.channels / samples_per_code
    if codes is not None and abs(heard - codes) > CODES_APART:
        found.append(f"{heard:.1f} codes long, and the talker made {codes}")
    return found
