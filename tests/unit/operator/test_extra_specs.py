"""Extra specs: traits and aggregate metadata mean what they mean in Nova."""

import pytest

from kumulus_operator.placement.extra_specs import aggregate_specs, matches, traits_of, unmet


@pytest.mark.parametrize(
    ("value", "demand", "met"),
    [
        ("true", "true", True),
        ("true", "false", False),
        ("fast disk", "fast disk", True),
        ("ssd", "s== ssd", True),
        ("ssd", "s!= ssd", False),
        ("b", "s> a", True),
        ("b", "s>= b", True),
        ("a", "s< b", True),
        ("a", "s<= a", True),
        ("8", "= 4", True),
        ("2", "= 4", False),
        ("4.0", "== 4", True),
        ("4", "!= 4", False),
        ("10", ">= 9", True),
        ("10", "<= 9", False),
        ("many", ">= 9", False),
        ("12345", "<in> 34", True),
        ("aes mmx", "<all-in> aes mmx", True),
        ("aes", "<all-in> aes mmx", False),
        ("b", "<or> a <or> b", True),
        ("c", "<or> a <or> b", False),
        ("x", "s==", False),
        ("x", ">=", False),
        ("", "", True),
    ],
)
def test_a_demand_is_met_as_nova_says(value, demand, met):
    """A value meets a demand by its operator; without one they are equal; a number is never met by a word."""
    assert matches(value, demand) is met


def test_traits_are_required_or_forbidden():
    """Of all extra specs those that begin with `trait:` ask for traits."""
    specs = {"trait:A": "required", "trait:B": "forbidden", "aggregate_instance_extra_specs:ssd": "true"}
    assert traits_of(specs) == ({"A"}, {"B"})
    assert aggregate_specs(specs) == {("ssd", "true")}


def test_one_value_of_several_aggregates_is_enough():
    """A key that several aggregates give is met by any of its values, one that none gives by nothing."""
    assert unmet([("size", "2")], {"size": {"1", "2"}}) is None
    assert unmet([("size", "3"), ("rack", "a")], {"size": {"1", "2"}}) == ("rack", "a")
