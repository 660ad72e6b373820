"""A page in headless Chromium."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def browser(page: Path, *flags: str) -> str:
    """Open the page in headless Chromium; returns what it prints. No console message may appear."""
    found = next((path for name in NAMES if (path := shutil.which(name))), None)
    if found is None:
        pytest.fail("the report's tests need Chromium on PATH: apt-get install chromium (or Google Chrome)")
    command = [found, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--no-first-run",
               f"--user-data-dir={page.parent / 'profile'}", "--window-size=1280,2000", *flags, page.as_uri()]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "CONSOLE" not in done.stderr, done.stderr
    return done.stdout


def ask(page: Path, script: str) -> Any:
    """What the page answers to a script that runs after its own and ends with `return`."""
    asking = page.with_name(f"asking-{page.name}")
    tail = f"<script>document.body.textContent = JSON.stringify((() => {{ {script} }})())</script></body>"
    asking.write_text(page.read_text().replace("</body>", tail))
    body = re.search(r"<body[^>]*>(.*)</body>", browser(asking, "--dump-dom"), re.S)
    assert body
    return json.loads(body[1].replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&"))
