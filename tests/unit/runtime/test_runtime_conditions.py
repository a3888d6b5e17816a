"""Invariants of conditions."""

import copy
from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from kumulus_runtime.conditions import get_condition, set_condition

T0 = datetime(2026, 1, 1, tzinfo=UTC)
types = st.sampled_from(["Ready", "Scheduled", "ImageReady", "NetworkReady"])
calls = st.tuples(
    types, st.sampled_from([True, False, None]), st.sampled_from(["A", "B"]), st.text(max_size=5), st.integers(1, 3)
)


def build(history):
    """The conditions after a history, one call a minute."""
    conditions = []
    for step, call in enumerate(history):
        conditions = set_condition(conditions, *call, now=T0 + timedelta(minutes=step))
    return conditions


@given(st.lists(calls, max_size=12), calls)
def test_setting_twice_equals_setting_once(history, call):
    """Equal input at any later time gives an equal list, so that a repeated reconcile writes nothing."""
    once = set_condition(build(history), *call, now=T0 + timedelta(hours=1))
    assert set_condition(once, *call, now=T0 + timedelta(hours=2)) == once


@given(st.lists(calls, max_size=12), calls)
def test_the_transition_time_moves_only_with_the_status(history, call):
    """The transition time is the present if and only if the status differs from before."""
    before = build(history)
    now = T0 + timedelta(hours=1)
    after = set_condition(before, *call, now=now)
    old, new = get_condition(before, call[0]), get_condition(after, call[0])
    changed = old is None or old["status"] != new["status"]
    assert (new["lastTransitionTime"] == "2026-01-01T01:00:00Z") == changed
    assert changed or new["lastTransitionTime"] == old["lastTransitionTime"]


@given(st.lists(calls, max_size=12), calls)
def test_others_and_the_order_stay(history, call):
    """All other conditions and the order of known types are untouched, and the argument is not changed."""
    before = build(history)
    kept = copy.deepcopy(before)
    after = set_condition(before, *call, now=T0)
    assert before == kept
    assert [c for c in after if c["type"] != call[0]] == [c for c in before if c["type"] != call[0]]
    known = [c["type"] for c in before]
    assert [c["type"] for c in after] == (known if call[0] in known else [*known, call[0]])


def test_a_condition_says_all_a_user_expects():
    """A new condition has exactly the fields of metav1.Condition."""
    assert set_condition([], "Ready", None, "Waiting", "waits for a host", 3, T0) == [
        {
            "type": "Ready",
            "status": "Unknown",
            "observedGeneration": 3,
            "lastTransitionTime": "2026-01-01T00:00:00Z",
            "reason": "Waiting",
            "message": "waits for a host",
        }
    ]
