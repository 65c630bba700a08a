"""The whole surface that third parties write against; built-ins come through the same door."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    from .plugins import Registries

hookspec = pluggy.HookspecMarker("webssl_toolbox")
hookimpl = pluggy.HookimplMarker("webssl_toolbox")


@hookspec
def webssl_register(registries: Registries) -> None:
    """Names what the plugin brings.

    ``registries.objectives['barlow'] = 'my_pkg.barlow:BarlowTwins'``; likewise ``.towers``,
    ``.spaces``, ``.datasets``, ``.views``, ``.evaluators`` and ``.hooks``. A string is imported
    when a config first asks for it; a class is taken as it is.
    """
