"""vLLM-Omni's server as a process that dies with its parent: `python -m qforge.runtimes.vllm_omni_server ARGS`.

vLLM-Omni's own command is started: vLLM's api_server does not know its stages. Each engine imports this file first, too,
under another name.
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
    runpy.run_module("vllm_omni.entrypoints.cli.main", run_name="__main__")
