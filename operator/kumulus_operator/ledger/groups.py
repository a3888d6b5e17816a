"""Count security groups and their rules against projects' quotas."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable

from kumulus_api.tenancy import Quota
from kumulus_operator.ledger.plan import group_excess
from kumulus_operator.views import Key


class GroupBook:
    """Which security groups are admitted, and how many rules each has.

    Args:
        quota_of: gives the limits of a project.
        changed: is told of a project whose usage is another now.
    """

    def __init__(self, quota_of: Callable[[str], Quota], changed: Callable[[str], None]) -> None:
        self._quota_of = quota_of
        self._changed = changed
        self._rules: defaultdict[str, dict[str, int]] = defaultdict(dict)

    def admit(self, key: Key, rules: int, *, counted: bool) -> str | None:
        """Count a group with its rules, or say by what it would exceed its project's quota.

        One that is in use keeps the rules that it has; with more of them than the quota allows it is told so, and no
        further port gets into it.

        Args:
            key: its namespace and name.
            rules: how many it has now.
            counted: it was admitted before this process started.
        """
        namespace, name = key
        known = self._rules[namespace]
        if known.get(name) == rules:
            return None
        before = known.get(name)
        others = sum(known.values()) - (before or 0)
        grows = before is None or rules > before
        first = counted and before is None
        excess = group_excess(len(known) + (before is None), others + rules, self._quota_of(namespace))
        if excess is not None and grows and not first:
            return excess
        known[name] = rules
        self._changed(namespace)
        return None

    def gone(self, key: Key) -> None:
        """Count a group no more."""
        if self._rules[key[0]].pop(key[1], None) is not None:
            self._changed(key[0])

    def used(self, namespace: str) -> tuple[int, int]:
        """Give how many groups a project has, and rules in them."""
        rules = self._rules[namespace]
        return len(rules), sum(rules.values())
