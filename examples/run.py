"""Work off `prompts.jsonl`: what `make run` does, and a model for a script of your own.

Without OPENAI_BASE_URL and OPENAI_API_KEY the answers come from the simulator, which cuts some of
its streams in the middle, so that there is something to see: each cut answer goes on where it
stopped. Stop it (Ctrl-C, or kill -9) and run it again: it goes on from the last saved position.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

PROMPTS = Path(os.path.relpath(Path(__file__).resolve().parent / "prompts.jsonl"))
#: The safe path (-P) keeps a folder called `worker` in the current one from being taken for ours.
TOKENSPOOL = (sys.executable, "-P", "-m", "tokenspool")
#: Every third answer is cut after 300 of its 900 tokens; at 150 tokens/s that takes some seconds.
SIMULATOR = ("--port", "0", "--rate", "150", "--tokens", "900", "--fault", "cut_after_tokens=300@3")
#: Exit codes, the same as tokenspool's own.
WRONG_USAGE = 2
INTERRUPTED = 3
UNUSABLE = 4


@contextlib.contextmanager
def simulator() -> Iterator[str]:
    """Run the simulator while the block runs, or until this process is killed; gives its URL."""
    with subprocess.Popen(
        (sys.executable, "-P", "-m", "simulator", "--with-parent", *SIMULATOR),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        # A session of its own: Ctrl-C is for the run, which still needs its endpoint to stop well.
        start_new_session=True,
    ) as process:
        address = process.stdout.readline().strip() if process.stdout else ""
        if not address.startswith("http"):
            sys.exit(f"the simulator did not start: {address or 'it said nothing'}")
        try:
            yield address
        finally:
            process.terminate()


def real_model(base_url: str, key: str) -> str:
    """Give the model to ask for: MODEL, else the only one that the endpoint lists."""
    if named := os.environ.get("MODEL"):
        return named
    request = urllib.request.Request(f"{base_url.rstrip('/')}/models")  # noqa: S310 - the person's own URL
    if key:
        request.add_header("Authorization", f"Bearer {key}")
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310 - the same
            models = [str(model["id"]) for model in json.load(answer)["data"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        _stop(UNUSABLE, f"cannot list the models of {base_url}: {error}")
    if len(models) != 1:
        _stop(WRONG_USAGE, f"{base_url} has {len(models)} models: {', '.join(models[:5])} …")
    return models[0]


def _stop(code: int, why: str) -> NoReturn:
    """Leave with a sentence that says what to do."""
    print(f"{why}; name one: make run MODEL=name", file=sys.stderr)
    print("(without OPENAI_BASE_URL and OPENAI_API_KEY the simulator answers)", file=sys.stderr)
    sys.exit(code)


def work(*, base_url: str, model: str, out: str) -> int:
    """Run `tokenspool run` to its end; gives its exit code."""
    command = ("run", str(PROMPTS), "-o", out, "--model", model, "--base-url", base_url)
    print(f"$ tokenspool {' '.join(command)}\n", flush=True)
    with subprocess.Popen((*TOKENSPOOL, *command)) as process:
        # The child hears Ctrl-C itself and drains; we only wait. A SIGTERM for us is handed on.
        signal.signal(signal.SIGINT, lambda *_: None)
        signal.signal(signal.SIGTERM, lambda *_: process.terminate())
        return process.wait()


def farewell(code: int, out: str) -> None:
    """Say where the text is and what to try next."""
    if code == INTERRUPTED or code < 0:
        print("\n`make run` goes on from the last saved position")
    if code not in {0, 1}:
        return
    print(f"\nThe text is in {out}/. Try next:")
    for command, why in (
        (f"status -o {out}", "how many jobs stand where"),
        (f"show {_resumed(out)} -o {out}", "its attempts and its seams"),
        (f"verify -o {out}", "the files against the journal"),
    ):
        print(f"  .venv/bin/tokenspool {command:<34} {why}")
    print(f"  {'make run':<55} again: nothing is asked for twice")


def _resumed(out: str) -> str:
    """Name a job that was taken up again, or just one."""
    command = (*TOKENSPOOL, "jobs", "-o", out, "--json")
    listed = subprocess.run(command, check=True, stdout=subprocess.PIPE)
    jobs = json.loads(listed.stdout)["jobs"]
    return str(max(jobs, key=lambda job: job["resumes"])["custom_id"])


def main() -> int:
    """Choose the endpoint, work the prompts off, say what came of it."""
    out = os.environ.get("OUT", "out")
    base_url = os.environ.get("OPENAI_BASE_URL", "")
    key = os.environ.get("OPENAI_API_KEY", "")
    if base_url or key:
        base_url = base_url or "https://api.openai.com/v1"
        code = work(base_url=base_url, model=real_model(base_url, key), out=out)
    else:
        with simulator() as address:
            code = work(base_url=address, model="simulated", out=out)
    farewell(code, out)
    # As a shell has it: 137 for a process that was killed with SIGKILL.
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main())
