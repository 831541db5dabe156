from __future__ import annotations

from pathlib import Path

import pytest

from tokenspool.database import Database
from tokenspool.errors import UsageError
from tokenspool.model import Prefill
from tokenspool.settings import OPENAI_URL, load
from tokenspool.store.intake.options import checked_url
from worker.limits.rates import Rates
from worker.tuning import tuning


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stand in an empty folder with none of our variables set."""
    monkeypatch.chdir(tmp_path)
    for name in ("TOKENSPOOL_STREAMS", "TOKENSPOOL_BASE_URL", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)


def test_flags_win_over_variables_over_the_file_over_defaults(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The order of the contract, looked at on one setting from below."""
    assert load().streams == 64
    Path("tokenspool.toml").write_text("streams = 1\n")
    assert load().streams == 1
    monkeypatch.setenv("TOKENSPOOL_STREAMS", "2")
    assert load().streams == 2
    assert load(streams=3).streams == 3
    assert load(streams=None).streams == 2


def test_openais_variable_stands_between_ours_and_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """`OPENAI_BASE_URL` is honoured, and ours is stronger."""
    assert load().base_url == OPENAI_URL
    Path("tokenspool.toml").write_text('base_url = "http://file/v1"\n')
    monkeypatch.setenv("OPENAI_BASE_URL", "http://openai/v1")
    assert load().base_url == "http://openai/v1"
    monkeypatch.setenv("TOKENSPOOL_BASE_URL", "http://ours/v1")
    assert load().base_url == "http://ours/v1"


def test_an_empty_variable_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """`TOKENSPOOL_STREAMS=` is as good as not set."""
    monkeypatch.setenv("TOKENSPOOL_STREAMS", "")

    assert load().streams == 64


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("stream = 3\n", "unknown key 'stream'; did you mean 'streams'?"),
        ("zzz = 3\n", "unknown key 'zzz'; there are: api_key_env"),
        ("streams = \n", "is not TOML"),
        ("streams = -1\n", "streams: input should be greater than 0"),
        ('streams = "many"\n', "streams: input should be a valid integer"),
        ("idle_timeout_s = inf\n", "idle_timeout_s: input should be a finite number"),
        ('keep = "never"\n', "keep: input should be 'forever' or 'until-published'"),
        ('[[endpoint]]\nurl = "http://x"\nprefil = "none"\n', "did you mean 'prefill'?"),
        ('[[endpoint]]\nprefill = "none"\n', "endpoint.0.url: field required"),
        ('[[endpoint]]\nurl = "x"\n', "endpoint.0.url: value error, it is not a base url"),
        ('[[endpoint]]\nurl = "http://[x"\n', "endpoint.0.url: "),
        (
            '[[endpoint]]\nurl = "http://x"\nmodel = "m"\nprefill = "none"\n',
            "with a model it may only name limits",
        ),
        ('[[endpoint]]\nurl = "http://x"\nmax_in_flight = 0\n', "greater than 0"),
        ('limits_url = "amqp://x"\n', "it is not the url of a redis"),
        ("endpoint = 3\n", "endpoint is a list of tables"),
        ('endpoint = ["http://x/v1"]\n', "endpoint is a list of tables"),
        ('[endpoint]\nurl = "http://x/v1"\n', "endpoint is a list of tables"),
    ],
)
def test_a_wrong_file_is_refused_in_one_sentence(text: str, said: str) -> None:
    """Usage errors name the key and what would be right."""
    Path("tokenspool.toml").write_text(text)

    with pytest.raises(UsageError) as caught:
        load()

    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2


def test_a_wrong_url_is_refused_without_being_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """A database URL may hold a password."""
    monkeypatch.setenv("TOKENSPOOL_ENDPOINT", "{nonsense}")

    with pytest.raises(UsageError):
        load()

    with pytest.raises(UsageError) as caught:
        load(database_url=b"postgresql://u:secret@h/\xff")
    assert "secret" not in str(caught.value)


def test_an_endpoints_own_habits_win_over_what_is_known_of_its_host() -> None:
    """`[[endpoint]]` overrides the built-in profile, one field at a time."""
    Path("tokenspool.toml").write_text(
        '[[endpoint]]\nurl = "http://mine/v1/"\nprefill = "partial"\napi_key_env = "MINE"\n'
        '[[endpoint]]\nurl = "https://api.mistral.ai/v1"\ndone_is_finish = true\n'
        '[[endpoint]]\nurl = "http://none/v1"\nprefill = "none"\n'
    )
    settings = load()

    assert settings.profile("http://mine/v1").prefill == (Prefill.PARTIAL,)
    assert settings.key_env("http://mine/v1") == "MINE"
    assert settings.profile("https://api.mistral.ai/v1").prefill == (Prefill.PREFIX,)
    assert settings.profile("https://api.mistral.ai/v1").done_is_finish
    assert settings.profile("http://none/v1").prefill == ()
    assert settings.key_env("http://none/v1") == "OPENAI_API_KEY"
    assert len(settings.profile("http://other/v1").prefill) == 4


def test_limits_are_a_models_own_or_those_of_its_url() -> None:
    """One number at a time; without any there is none."""
    Path("tokenspool.toml").write_text(
        '[[endpoint]]\nurl = "http://x/v1"\nprefill = "none"\nmax_in_flight = 9\n'
        "requests_per_minute = 600\n"
        '[[endpoint]]\nurl = "http://x/v1/"\nmodel = "large"\nrequests_per_minute = 60\n'
    )
    settings = load()

    def limits(model: str, url: str = "http://x/v1") -> list[int | None]:
        return [
            settings.limit("max_in_flight", url, model),
            settings.limit("requests_per_minute", url, model),
            settings.limit("tokens_per_minute", url, model),
        ]

    assert limits("small") == [9, 600, None]
    assert limits("large") == [9, 60, None]
    assert limits("large", "http://y/v1") == [None, None, None]
    assert settings.profile("http://x/v1").prefill == ()


def test_workers_agree_by_the_broker_when_it_is_a_redis() -> None:
    """Unless another Redis is named; other brokers cannot hold limits."""
    database = Database("sqlite://")

    def url(**settings: str) -> str | None:
        return tuning(database, load(**settings)).limits_url

    redis, amqp = "redis://127.0.0.1:6379/3", "amqp://127.0.0.1//"
    assert url() is None
    assert url(broker_url=redis) == redis
    assert url(broker_url=amqp) is None
    assert url(broker_url=amqp, limits_url="rediss://x/1") == "rediss://x/1"
    database.close()


def test_rates_reach_the_endpoint_however_its_url_is_written() -> None:
    """Jobs name it in one way, a person in any."""
    Path("tokenspool.toml").write_text('[[endpoint]]\nurl = "HTTP://X/v1/"\nmax_in_flight = 9\n')
    database = Database("sqlite://")

    rates = tuning(database, load()).rates(checked_url("http://x/v1"), "m")

    assert rates == Rates(max_in_flight=9)
    database.close()


def test_an_unknown_variable_is_warned_of_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A slip is seen, with the nearest name; what is no setting but ours is no slip."""
    monkeypatch.setenv("TOKENSPOOL_STREAMZ", "3")
    monkeypatch.setenv("TOKENSPOOL_TEST_POSTGRES_URL", "postgresql://…")
    monkeypatch.setenv("TOKENSPOOL_SUPERVISED", "1")
    monkeypatch.setenv("tokenspool_tick_s", "0.5")

    assert load().streams == 64
    load()

    said = [record.getMessage() for record in caplog.records]
    assert said == [
        "the variable TOKENSPOOL_STREAMZ sets nothing; did you mean TOKENSPOOL_STREAMS?"
    ]
