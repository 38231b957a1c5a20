"""The settings of a search space where they meet the pruner and the searcher of an experiment."""

from __future__ import annotations

from dataclasses import replace

from autoprune import registry
from autoprune.core.settings import CRITERION, Choice, criterion_pattern, defaults, with_own, written
from autoprune.core.space import SearchSpace
from autoprune.core.trial import Setting
from autoprune.errors import ConfigError
from autoprune.pruning.pruner import Pruner
from autoprune.searchers.base import Searcher


def settle(space: SearchSpace, pruner: Pruner) -> SearchSpace:
    """The space whose settings of the scoring know the pruner's own values.

    Raises:
        ConfigError: a criterion cannot score what the pruner removes; every such criterion is named.
    """
    faults = [
        f"{space.source}: settings.{name}: criterion {value!r} scores whole output channels, which pattern "
        f"{pruner.pattern.name!r} is not made of; leave it out, or choose pattern 'filter'"
        for name, dimension in space.settings.items()
        if isinstance(dimension, Choice) and _is_criterion(name)
        for value in dimension.values
        if registry.resolve("criterion", str(value)).per_channel and not pruner.pattern.coupled
    ]
    if faults:
        raise ConfigError(faults)
    own: dict[str, Setting | None] = {name: dimension.own for name, dimension in space.settings.items()}
    scoring = {"normalise": pruner.normalise, "combine": pruner.combine}
    own |= {name: pruner.criterion.name for name in own if _is_criterion(name)}
    own |= {name: value for name, value in scoring.items() if name in own}
    return replace(space, settings=with_own(space.settings, own))


def _is_criterion(name: str) -> bool:
    return name == CRITERION or criterion_pattern(name) is not None


def kept_line(space: SearchSpace, searcher: str) -> str | None:
    """One line on the settings that a searcher leaves as they are, and who would search them; None if it does."""
    chosen: type[Searcher] = registry.resolve("searcher", searcher)
    if not space.settings or chosen.handles_settings:
        return None
    return (
        f"searcher {searcher!r} searches widths alone; the settings of {space.source} stay as they are: "
        f"{written(defaults(space.settings))} (settings are searched by {', '.join(_handling())})"
    )


def _handling() -> list[str]:
    return [name for name in registry.SEARCHERS if registry.resolve("searcher", name).handles_settings]
