"""The one place that chooses adapters and puts the engine's parts together."""

from __future__ import annotations

import contextlib
import os
import resource
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from pipeline.budget import Budget
from pipeline.journal import Journal
from pipeline.outputs.delivery import Delivery
from pipeline.outputs.folder import FolderOutput
from pipeline.outputs.objects import ObjectOutput
from pipeline.parts import Parts
from pipeline.ports import Fault, Output, Source, WholeOutput
from pipeline.retry import RetryPolicy
from pipeline.sources.chat import ChatSource
from pipeline.sources.settings import SourceSettings
from pipeline.watch import Timeouts, Watch
from tokenspool.database import Database
from tokenspool.errors import Unavailable, UsageError
from tokenspool.model import Endpoint, Entry, Prefill
from tokenspool.profiles import Profile, profile_for
from tokenspool.roots import is_url
from worker.clock import Clock, Rhythm
from worker.limits.rates import Rates
from worker.limits.shared import SharedBooks, name_of
from worker.permits import Permits
from worker.pool import Pool, most_publishing
from worker.sites import Sites
from worker.sqlstore import SqlStore

#: Descriptors of a live stream: its socket, its part file and the folder that holds it.
FILES_PER_STREAM = 3
#: Of an answer that waits for its output: the last two of them.
FILES_PER_PUBLISHING = 2
#: Answers that may wait for their outputs at the least, however few files may be open.
LEAST_PUBLISHING = 16
OTHER_FILES = 128
_UNLIMITED = {resource.RLIM_INFINITY, -1}


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuning:
    """What a process is given to work with; the command line fills it from the settings."""

    database: Database
    streams: int = 64
    budget_bytes: int = 64 * 1024 * 1024
    max_event_bytes: int = 8 * 1024 * 1024
    max_output_bytes: int = 1024 * 1024 * 1024
    connect_timeout_s: float = 10.0
    timeouts: Timeouts = field(default_factory=Timeouts)
    rhythm: Rhythm = field(default_factory=Rhythm)
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    #: False: the journal forgets a text once its file is published.
    keep: bool = True
    #: By base URL; what is not in it is taken from the built-in profiles.
    profiles: Mapping[str, Profile] = field(default_factory=dict)
    #: What a base URL (and model) may be asked; None: no limit that we know.
    rates: Callable[[str, str], Rates] = field(default=lambda _url, _model: Rates())
    #: The Redis in which a fleet keeps its limits together; None: each worker keeps its share.
    limits_url: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Plant:
    """A wired process."""

    store: SqlStore
    journal: Journal
    delivery: Delivery
    watch: Watch
    clock: Clock
    sites: Sites
    pool: Pool


def build_plant(
    tuning: Tuning,
    *,
    worker: str,
    fault: Fault,
    on_tokens: Callable[[int], None],
    leased: bool = False,
) -> Plant:
    """Put a process together. Raises UsageError when it may not open enough files.

    With `leased` it claims nothing once its worker's lease has run out.
    """
    publishing_limit = allow_open_files(tuning.streams)
    store = SqlStore(tuning.database)
    clock = Clock(tuning.rhythm)
    delivery = Delivery(store, output_for, fault=fault)

    def show(entries: Sequence[Entry]) -> None:
        on_tokens(sum(e.after.spent.generated - e.before.spent.generated for e in entries))
        delivery.show(entries)

    journal = Journal(store, clock, show=show, fault=fault)
    budget = Budget(tuning.budget_bytes, slots=tuning.streams)
    watch = Watch(tuning.timeouts)
    parts = Parts(
        worker=worker,
        store=store,
        journal=journal,
        delivery=delivery,
        budget=budget,
        watch=watch,
        retry=tuning.retry,
        max_output_bytes=tuning.max_output_bytes,
        fault=fault,
    )

    def profile(endpoint: Endpoint) -> Profile:
        return tuning.profiles.get(endpoint.url) or profile_for(endpoint.url)

    def source_for(endpoint: Endpoint) -> Source:
        settings = SourceSettings(
            connect_timeout_s=tuning.connect_timeout_s,
            receive_bytes=budget.receive_bytes,
            max_event_bytes=tuning.max_event_bytes,
            done_is_finish=profile(endpoint).done_is_finish,
        )
        return ChatSource(endpoint, api_key=key_for(endpoint), settings=settings, pace=clock)

    def flags_for(endpoint: Endpoint) -> tuple[Prefill, ...]:
        return profile(endpoint).prefill

    # A process that works alone needs nobody to agree with.
    books = SharedBooks(tuning.limits_url) if leased and tuning.limits_url else None
    sites = Sites(
        store,
        journal,
        slots=tuning.streams,
        source_for=source_for,
        flags_for=flags_for,
        rates_for=lambda endpoint: tuning.rates(endpoint.url, endpoint.model),
        book_for=lambda endpoint: name_of(endpoint, key_for(endpoint)),
        permits=Permits(books),
    )
    pool = Pool(
        parts,
        store,
        sites,
        slots=tuning.streams,
        publishing_limit=publishing_limit,
        leased=leased,
        keep=tuning.keep,
    )
    return Plant(
        store=store,
        journal=journal,
        delivery=delivery,
        watch=watch,
        clock=clock,
        sites=sites,
        pool=pool,
    )


def output_for(root: str) -> Output | WholeOutput:
    """Choose the output of a root."""
    return ObjectOutput(root) if is_url(root) else FolderOutput(root)


def key_for(endpoint: Endpoint) -> str:
    """Read an endpoint's key where it is named. A server of one's own may do without.

    Raises Unavailable, which never shows the key, where there is none that could be sent.
    """
    # Pasted, or read from a file, it often has the end of its line.
    key = os.environ.get(endpoint.api_key_env, "").strip()
    if not (key.isascii() and key.isprintable()):
        msg = (
            f"the key in {endpoint.api_key_env} holds characters that no key has (a line break,"
            f" an umlaut, a typographic quote): set {endpoint.api_key_env} to the key alone"
        )
        raise Unavailable(msg)
    if key:
        return key
    if "api.openai.com" in endpoint.url:
        msg = f"{endpoint.url} needs a key: set {endpoint.api_key_env}"
        raise Unavailable(msg)
    return "none"


def allow_open_files(streams: int) -> int:
    """Raise the soft limit of open files; give how many answers may wait for their outputs at once.

    It is raised to the hard limit and never lowered. Raises UsageError when that is below what
    `streams` need at the least.
    """
    fixed = FILES_PER_STREAM * streams + OTHER_FILES
    least = fixed + FILES_PER_PUBLISHING * LEAST_PUBLISHING
    most = fixed + FILES_PER_PUBLISHING * most_publishing(streams)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft in _UNLIMITED:
        return most_publishing(streams)
    # Some systems call the hard limit endless and still refuse more than a number of their own.
    for wanted in (most, least) if hard in _UNLIMITED else (hard,):
        if wanted > soft:
            with contextlib.suppress(OSError, ValueError):
                resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
                soft = wanted
    if soft < least:
        spare = soft - least + FILES_PER_STREAM * streams
        msg = (
            f"{streams} streams need {least} open files, and {soft} are allowed:"
            f" lower --streams to {max(1, spare // FILES_PER_STREAM)} or raise `ulimit -n`"
        )
        raise UsageError(msg)
    return min(most_publishing(streams), (soft - fixed) // FILES_PER_PUBLISHING)
