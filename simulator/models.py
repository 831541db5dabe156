"""The models that there are."""

from __future__ import annotations

import msgspec

from simulator.refusal import Refusal
from simulator.settings import SimSettings

#: The model that is listed when none is set; any other name is answered too.
DEFAULT = "simulated"
#: Names that begin like this are no models: somebody has to be told no.
_UNKNOWN = ("no-such", "unknown", "missing", "nope")


def check_model(name: str, settings: SimSettings) -> None:
    """Raise the refusal that an unknown model gets."""
    known = name in settings.models if settings.models else not name.startswith(_UNKNOWN)
    if not known:
        message = f"The model `{name}` does not exist or you do not have access to it."
        raise Refusal(404, message, code="model_not_found", param="model")


def one_model(name: str, settings: SimSettings) -> bytes:
    """Give what is known of a model, as JSON. Raises Refusal."""
    check_model(name, settings)
    return msgspec.json.encode(_model(name))


def all_models(settings: SimSettings) -> bytes:
    """Give the list of models, as JSON."""
    names = settings.models or (DEFAULT,)
    return msgspec.json.encode({"object": "list", "data": [_model(name) for name in names]})


def _model(name: str) -> dict[str, object]:
    return {"id": name, "object": "model", "created": 1_700_000_000, "owned_by": "simulator"}
