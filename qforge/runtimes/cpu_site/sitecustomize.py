"""Python imports this when it starts where the folder is on PYTHONPATH: vLLM starts Pythons that nothing else would reach."""

import sys

from qforge.runtimes.cpu_torch import BesideTorch

sys.meta_path.insert(0, BesideTorch())
