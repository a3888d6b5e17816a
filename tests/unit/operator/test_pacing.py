"""Turns: at once after a quiet time, evenly when many ask, and nobody is served twice in a row for asking often."""

from kumulus_operator.pacing import Turns


def test_few_are_served_at_once_and_many_evenly():
    """Of many keys that ask together the burst goes at once, the rest one step after the other."""
    turns = Turns(10.0, 3)
    waits = [turns.wait(("", str(number)), 100.0) for number in range(6)]
    assert [round(max(wait, 0.0), 3) for wait in waits] == [0, 0, 0, 0.1, 0.2, 0.3]


def test_a_key_keeps_its_turn_until_it_was_served():
    """Asking again changes nothing; after its turn a key stands at the end of the line."""
    turns = Turns(10.0, 1)
    assert turns.wait(("", "a"), 100.0) <= 0
    assert round(turns.wait(("", "b"), 100.0), 3) == 0.1
    assert round(turns.wait(("", "b"), 100.05), 3) == 0.05
    turns.done(("", "a"))
    assert round(turns.wait(("", "a"), 100.05), 3) == 0.15
    assert turns.wait(("", "b"), 100.2) < 0


def test_after_a_quiet_time_there_is_no_wait_but_the_asked_one():
    """A key that may not write before a time is told so, whoever else waits."""
    turns = Turns(10.0, 2)
    assert turns.wait(("", "a"), 100.0, 100.5) == 0.5
    assert turns.wait(("", "b"), 200.0) <= 0
