"""Difference imaging with the names and options of HOTPANTS."""

import importlib
from typing import TYPE_CHECKING, Any

from starmill.hotpants.options import HotpantsConfig, HotpantsError

if TYPE_CHECKING:
    from starmill.hotpants.session import Hotpants
    from starmill.hotpants.substamp import Substamp, SubstampStatus

__all__ = ["Hotpants", "HotpantsConfig", "HotpantsError", "Substamp", "SubstampStatus"]

_MODULES = {"Hotpants": "session", "Substamp": "substamp", "SubstampStatus": "substamp"}


def __getattr__(name: str) -> Any:
    """Import the engine when it is first used, so that the help of the command is instant."""
    if name not in _MODULES:
        raise AttributeError(f"module 'starmill.hotpants' has no attribute {name!r}")
    return getattr(importlib.import_module(f"starmill.hotpants.{_MODULES[name]}"), name)
