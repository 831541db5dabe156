"""What is known beforehand of providers: how each is told to go on with an answer of its own.

Data, not code: one line per provider, most specific host first. What is not listed is probed.
"""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlsplit

from tokenspool.model import Prefill


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """How to treat an endpoint."""

    #: Ways to ask it to go on, best first; empty: it answers anew whatever we send.
    prefill: tuple[Prefill, ...]
    #: Does `[DONE]` without a finish reason prove the end? (Ollama and some gateways.)
    done_is_finish: bool = False


_TRAILING = (Prefill.TRAILING,)
#: Host suffix -> profile. A host matches itself and everything below it.
PROFILES: dict[str, Profile] = {
    # A trailing assistant message is history there; the model answers anew.
    "api.openai.com": Profile(prefill=()),
    "openai.azure.com": Profile(prefill=()),
    # "Chat prefix completion" of the beta address.
    "api.deepseek.com": Profile(prefill=(Prefill.PREFIX,)),
    "api.mistral.ai": Profile(prefill=(Prefill.PREFIX,)),
    # "Partial mode".
    "api.moonshot.cn": Profile(prefill=(Prefill.PARTIAL,)),
    "api.moonshot.ai": Profile(prefill=(Prefill.PARTIAL,)),
    "dashscope.aliyuncs.com": Profile(prefill=(Prefill.PARTIAL,)),
    "dashscope-intl.aliyuncs.com": Profile(prefill=(Prefill.PARTIAL,)),
    "api.groq.com": Profile(prefill=_TRAILING),
    # The provider behind it decides, so it is always probed.
    "openrouter.ai": Profile(prefill=_TRAILING),
    # Claude 4.6 and later refuse a request that ends with the assistant; so does Gemini.
    "api.anthropic.com": Profile(prefill=_TRAILING),
    "generativelanguage.googleapis.com": Profile(prefill=()),
}
#: vLLM, SGLang, TGI and llama.cpp take the flag; others go by the trailing message or want a mark.
UNKNOWN = Profile(
    prefill=(Prefill.CONTINUE_FINAL_MESSAGE, Prefill.TRAILING, Prefill.PREFIX, Prefill.PARTIAL)
)


def profile_for(url: str) -> Profile:
    """Give the profile of a base URL's host."""
    host = (urlsplit(url).hostname or "").lower()
    for suffix, profile in PROFILES.items():
        if host == suffix or host.endswith("." + suffix):
            return profile
    return UNKNOWN
