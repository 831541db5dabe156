"""One job: source -> spooler -> journal -> output. Knows no queue, no command line, no web.

Read `runner.py` first, then `answer.py`, `spooler.py` and `journal.py`. What meets the world is
in `sources/` and `outputs/`; `ports.py` says what the engine needs of it.
"""
