"""Difference imaging with the names and options of HOTPANTS."""

from starmill.hotpants.options import HotpantsConfig, HotpantsError
from starmill.hotpants.session import Hotpants
from starmill.hotpants.substamp import Substamp, SubstampStatus

__all__ = ["Hotpants", "HotpantsConfig", "HotpantsError", "Substamp", "SubstampStatus"]
