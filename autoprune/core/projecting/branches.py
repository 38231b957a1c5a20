"""The residual branches of a search space that may be removed, as arrays."""

from __future__ import annotations

import numpy as np

from autoprune.core.costs import Bools, Ints
from autoprune.core.space import SearchSpace


class RemovableBranches:
    """The residual branches of a space that may be removed: which groups are at 0 with which.

    Args:
        leads: indices of the groups at whose width 0 a branch is gone.
        followers: indices of the other groups in these branches.
        followed: `[follower]` the lead of each.
        groups: how many groups the space has.

    Attributes:
        leads: as given.
        membership: `[lead, group]` whether a group lies in the branch.
    """

    def __init__(self, leads: Ints, followers: Ints, followed: Ints, groups: int) -> None:
        self.leads, self._followers, self._followed = leads, followers, followed
        self.membership: Bools = np.arange(groups) == leads[:, None]
        self.membership[:, followers] = followed == leads[:, None]

    @classmethod
    def of(cls, space: SearchSpace) -> RemovableBranches | None:
        """Returns those of a space; None where nothing may be removed beside its widths."""
        index = {name: place for place, name in enumerate(space.names)}
        leads = [place for name, place in index.items() if space.bounds[name].removable]
        followers, followed = (
            np.array([index[name] for name in names], dtype=np.int64)
            for names in (space.leads.keys(), space.leads.values())
        )
        return cls(np.array(leads, dtype=np.int64), followers, followed, len(index)) if leads else None

    def emptied(self, widths: Ints) -> Ints:
        """Returns `[…, group]` widths with all groups of the branches that are gone at 0."""
        if not len(self._followers):
            return widths
        found = widths.copy()
        found[..., self._followers] = np.where(widths[..., self._followed] == 0, 0, widths[..., self._followers])
        return found

    def gone(self, widths: Ints) -> Bools:
        """Returns `[…, group]`: whether the group's branch is removed at these widths."""
        found = np.zeros(widths.shape, dtype=np.bool_)
        found[..., self.leads] = widths[..., self.leads] == 0
        found[..., self._followers] = widths[..., self._followed] == 0
        return found

    def followers_gone(self, widths: Ints) -> Bools:
        """Returns `[…, group]`: whether the group goes with the lead of its branch at these widths."""
        found = self.gone(widths)
        found[..., self.leads] = False
        return found

    def snapped(self, found: Ints, proposed: Ints, lowest: Ints) -> Ints:
        """Returns `[…, group]` widths with the branches gone of which less than the narrowest was proposed.

        Args:
            found: the widths but for that.
            proposed: whole numbers.
            lowest: `[group]` narrowest widths of what stays.
        """
        leads = self.leads
        found[..., leads] = np.where(proposed[..., leads] < lowest[leads], 0, found[..., leads])
        return self.emptied(found)

    def completed(self, found: Ints, proposed: Ints, lowest: Ints, ceiling: Ints) -> Ints:
        """Returns `[…, group]` widths with what is gone at 0: where less than half of the narrowest was proposed.

        Groups at 0 in a branch that stays get the share of their ceilings that its lead has.

        Args:
            found: the widths but for that.
            proposed: numbers of any size.
            lowest: `[group]` narrowest widths of what stays.
            ceiling: `[group]`.
        """
        leads, followers, followed = self.leads, self._followers, self._followed
        found[..., leads] = np.where(2 * proposed[..., leads] < lowest[leads], 0, found[..., leads])
        alike = found[..., followed] * ceiling[followers] // np.maximum(ceiling[followed], 1)
        alike = np.maximum(alike, lowest[followers])
        found[..., followers] = np.where(proposed[..., followers] > 0, found[..., followers], alike)
        return self.emptied(found)
