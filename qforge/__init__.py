"""qforge: turn any LLM into a 4-bit model that is proven good, on the hardware at hand, from one line of config."""

__version__ = "0.1.0"
