"""The file of sensitivity curves: those of several scorings beside each other, each with what it depends on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from autoprune.core.sensitivity import SensitivityCurves
from autoprune.errors import UserError

FORMAT = 2
# Of a fingerprint, what curves were measured with but do not have to be.
_FREE = ("images", "seed")
# Of a fingerprint, what does not depend on how candidates are scored and judged.
NETWORK = ("task", "model", "checkpoint", "data")

Fingerprint = Mapping[str, Any]


def curves_to_json(curves: Sequence[SensitivityCurves]) -> dict[str, Any]:
    return {"format": FORMAT, "curves": [each.to_json() for each in curves]}


def curves_from_json(data: Mapping[str, Any], source: str) -> tuple[SensitivityCurves, ...]:
    """The curves that `curves_to_json` wrote, or an earlier release (format 1: the curves of one scoring).

    Raises:
        UserError: `data` is not what this release or an earlier one writes.
    """
    try:
        if data["format"] not in range(1, FORMAT + 1):
            raise UserError(f"{source} has sensitivity format {data['format']}; this release reads up to {FORMAT}")
        return tuple(map(SensitivityCurves.from_json, [data] if data["format"] == 1 else data["curves"]))
    except UserError:
        raise
    except (KeyError, TypeError, AttributeError, ValueError) as fault:
        raise UserError(
            f"{source} holds no sensitivity curves ({fault!r}); make it with `autoprune sensitivity`"
        ) from fault


def choose_curves(
    found: Sequence[SensitivityCurves], wanted: Fingerprint, groups: Sequence[str], source: str
) -> SensitivityCurves:
    """Those of some curves that were measured on this network and task, by this pruner and after this recipe.

    Of several those on the most images; of equals the last.

    Args:
        groups: what they have to have curves of.

    Raises:
        UserError: none were, or they lack a group.
    """
    if not found:
        raise UserError(f"{source} holds no sensitivity curves; make it with `autoprune sensitivity`")
    fitting = [curves for curves in found if not differing(curves.fingerprint, wanted)]
    if not fitting:
        nearest = min((differing(curves.fingerprint, wanted) for curves in found), key=len)
        others = f" (the nearest of {len(found)} measurements)" if len(found) > 1 else ""
        raise UserError(
            f"{source} was measured with another {' and '.join(nearest)}{others}; leave it out to measure anew"
        )
    missing = {id(curves): [name for name in groups if name not in curves.levels] for curves in fitting}
    best = max(reversed(fitting), key=lambda curves: (-len(missing[id(curves)]), curves.dense.images))
    if missing[id(best)]:
        raise UserError(
            f"{source} has no curve for group {', '.join(missing[id(best)])}; measure anew with this search space"
        )
    return best


def differing(found: Fingerprint, wanted: Fingerprint) -> list[str]:
    """The parts of a fingerprint that are not as wanted."""
    return [key for key in wanted if key not in _FREE and found.get(key) != wanted[key]]


def of_network(found: Sequence[SensitivityCurves], wanted: Fingerprint) -> tuple[SensitivityCurves, ...]:
    """Those of some curves that were measured on the same network and data."""
    return tuple(curves for curves in found if all(curves.fingerprint.get(key) == wanted.get(key) for key in NETWORK))


def beside(found: Sequence[SensitivityCurves], new: SensitivityCurves) -> tuple[SensitivityCurves, ...]:
    """The curves with new ones at the end, which take the place of any measured in the same way."""
    return (*(curves for curves in found if curves.fingerprint != new.fingerprint), new)
