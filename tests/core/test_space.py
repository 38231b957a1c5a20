import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoprune.core.allocation import Allocation
from autoprune.core.space import Bounds, GroupRule, SearchSpace, SpaceRules, build_space
from autoprune.errors import ConfigError, UserError
from tests.core.networks import bounds_within, group, space_of


def resnet():
    """The groups of a small residual network."""
    return [
        group("conv1", 16, first=True, producers=("conv1", "layer1.0.conv2", "layer1.1.conv2")),
        group("layer1.0.conv1", 16),
        group("layer1.1.conv1", 16),
        group("layer2.0.conv1", 32),
        group("layer2.0.conv2", 32, producers=("layer2.0.conv2", "layer2.1.conv2")),
        group("fc", 10, last=True),
    ]


def slow_levels(bounds):
    """The definition: multiples of the step within the bounds, and the ceiling."""
    return [w for w in range(bounds.floor, bounds.ceiling + 1) if w % bounds.step == 0 or w == bounds.ceiling]


@given(st.integers(1, 60).flatmap(bounds_within), st.floats(0, 70))
@settings(max_examples=100)
def test_levels_and_their_neighbours_follow_the_definition(bounds, width):
    levels = slow_levels(bounds)
    assert bounds.levels() == levels
    assert bounds.lowest == levels[0]
    assert bounds.below(width) == max([level for level in levels if level <= width + 1e-9], default=levels[0])


def test_the_ceiling_is_a_level_even_if_no_multiple():
    assert Bounds(3, 20, 8).levels() == [8, 16, 20]
    assert Bounds(5, 7, 8).levels() == [7]


def test_a_space_knows_its_narrowest_widest_and_dense_allocation():
    space = space_of({"a": Bounds(3, 18, 4), "b": Bounds(2, 2)}, {"a": 20, "b": 4})
    assert space.narrowest() == {"a": 4, "b": 2}
    assert space.widest() == {"a": 18, "b": 2}
    assert space.dense() == {"a": 20, "b": 4}


def test_membership_asks_for_every_group_at_an_allowed_width():
    space = space_of({"a": Bounds(4, 18, 4), "b": Bounds(1, 3)})
    assert Allocation({"a": 18, "b": 1}) in space
    for widths in ({"a": 4}, {"a": 4, "b": 1, "c": 1}, {"a": 5, "b": 1}, {"a": 4, "b": 4}, {"a": 0, "b": 1}):
        assert Allocation(widths) not in space


@pytest.mark.parametrize("bounds", [Bounds(0, 4), Bounds(5, 4), Bounds(1, 11)])
def test_bounds_outside_a_group_are_refused(bounds):
    with pytest.raises(UserError, match="should lie within 1 and 10"):
        SearchSpace((group("a", 10),), {"a": bounds})


def test_only_what_may_go_whole_has_a_floor_of_zero():
    with pytest.raises(UserError, match="should lie within 0 and 10"):
        SearchSpace((group("a", 10, least=0),), {"a": Bounds(-1, 10)})
    space = SearchSpace((group("a", 10, least=0), group("b", 1, least=0)), {"a": Bounds(0, 10, 4), "b": Bounds(0, 1)})
    assert space.narrowest() == {"a": 0, "b": 0}
    assert [space.bounds[name].levels() for name in space.names] == [[0, 4, 8, 10], [0, 1]]
    assert Allocation({"a": 0, "b": 1}) in space


def test_what_may_go_whole_does_so_by_default_and_keeps_what_a_rule_of_its_own_says():
    groups = [group("branch", 1, least=0), group("wide", 8, least=0), group("plain", 8)]
    rules = SpaceRules(min_keep=0.5, protect=())
    assert build_space(rules, groups).bounds == {"branch": Bounds(0, 1), "wide": Bounds(0, 8), "plain": Bounds(4, 8)}
    own = SpaceRules(groups={"wide": GroupRule(min_keep=0.25), "branch": GroupRule(min_keep=0.01)}, protect=())
    assert build_space(own, groups).bounds == {"branch": Bounds(1, 1), "wide": Bounds(2, 8), "plain": Bounds(1, 8)}


def test_what_may_go_whole_is_protected_excluded_and_pinned_like_any_group():
    groups = [group("stem", 1, least=0, first=True), group("branch", 1, least=0), group("b", 4)]
    rules = SpaceRules(groups={"branch": GroupRule(pin=True)})
    assert build_space(rules, groups).pinned == {"stem": "holds the first layer (protect: first)", "branch": "pinned"}


def test_the_default_rules_protect_the_first_and_last_layer():
    space = build_space(SpaceRules(), resnet())
    assert space.names == ("layer1.0.conv1", "layer1.1.conv1", "layer2.0.conv1", "layer2.0.conv2")
    assert space.pinned == {
        "conv1": "holds the first layer (protect: first)",
        "fc": "holds the last layer (protect: last)",
    }
    assert space.bounds["layer1.0.conv1"] == Bounds(2, 16)


@pytest.mark.parametrize(
    ("rules", "free"),
    [
        (SpaceRules(coupled=False), {"layer1.0.conv1", "layer1.1.conv1", "layer2.0.conv1"}),
        (SpaceRules(include=("layer1.*",)), {"layer1.0.conv1", "layer1.1.conv1"}),
        (SpaceRules(include=("layer1.*",), protect=()), {"conv1", "layer1.0.conv1", "layer1.1.conv1"}),
        (SpaceRules(exclude=("layer2.1.conv2", "*.0.conv1")), {"layer1.1.conv1"}),
        (SpaceRules(protect=("last",), include=("conv1",)), {"conv1"}),
        (SpaceRules(groups={"layer*": GroupRule(pin=True), "layer1.0.*": GroupRule()}, protect=("last",)), set()),
    ],
)
def test_rules_choose_the_groups(rules, free):
    if free:
        assert set(build_space(rules, resnet()).names) == free
    else:
        with pytest.raises(ConfigError, match="no group is left to prune"):
            build_space(rules, resnet())


def test_types_choose_by_class_name():
    with pytest.raises(ConfigError, match="type Conv2d is not among Linear"):
        build_space(SpaceRules(types=("Linear",)), resnet())


def test_of_the_rules_that_match_a_group_the_later_wins():
    groups = {"layer2.*": GroupRule(min_keep=0.5, multiple_of=8), "layer2.0.conv1": GroupRule(min_keep=0.25)}
    space = build_space(SpaceRules(groups=groups, max_keep=0.9), resnet())
    assert space.bounds["layer2.0.conv1"] == Bounds(8, 24, 8)
    assert space.bounds["layer2.0.conv2"] == Bounds(16, 24, 8)
    assert space.bounds["layer1.0.conv1"] == Bounds(2, 14, 1)


def test_only_the_dense_width_may_be_no_multiple():
    rules = SpaceRules(multiple_of=8, protect=())
    odd = [group("a", 20)]
    assert build_space(rules, odd).bounds["a"].levels() == [8, 16, 20]
    assert build_space(SpaceRules(multiple_of=8, max_keep=0.95, protect=()), odd).bounds["a"].levels() == [8, 16]


def test_a_group_narrower_than_the_step_keeps_its_width():
    assert build_space(SpaceRules(multiple_of=16, protect=()), [group("a", 6)]).bounds["a"].levels() == [6]


def test_at_least_one_channel_stays():
    assert build_space(SpaceRules(min_keep=0.01, protect=()), [group("a", 6)]).bounds["a"] == Bounds(1, 6)
    assert build_space(SpaceRules(min_keep=0.01, max_keep=0.1, protect=()), [group("a", 6)]).bounds["a"] == Bounds(1, 1)


def test_fractions_of_a_width_do_not_suffer_from_binary_rounding():
    assert build_space(SpaceRules(min_keep=0.7, max_keep=0.7, protect=()), [group("a", 10)]).bounds["a"] == Bounds(7, 7)


def test_every_pattern_without_a_match_is_reported_with_the_nearest_name():
    rules = SpaceRules(
        include=("layer9.*", "*"), exclude=("layer2.0.convv1",), groups={"fx": GroupRule()}, source="my.yaml"
    )
    with pytest.raises(ConfigError) as caught:
        build_space(rules, resnet())
    assert len(caught.value.faults) == 3
    assert caught.value.faults[0].startswith("my.yaml: include: 'layer9.*' matches no group")
    assert "exclude: 'layer2.0.convv1' matches no group; did you mean 'layer2.0.conv1'?" in caught.value.faults[1]
    assert "groups: 'fx' matches no group" in caught.value.faults[2]


def test_a_narrowed_space_has_the_widths_up_to_its_ceilings_and_no_others():
    groups = (group("a", 20), group("b", 8))
    space = SearchSpace(groups, {"a": Bounds(3, 20, 8), "b": Bounds(1, 8)}, {"c": "pinned"}, "somewhere")
    narrowed = space.narrowed({"a": 16, "b": 5})
    assert narrowed.bounds["a"].levels() == [8, 16]
    assert narrowed.bounds["b"].levels() == [1, 2, 3, 4, 5]
    assert (narrowed.pinned, narrowed.source, narrowed.names) == (space.pinned, space.source, space.names)
    assert narrowed.narrowest() == space.narrowest()
    assert space.narrowed(space.narrowest()).widest() == space.narrowest()
    assert space.narrowed(space.widest()) == space


def bottlenecks():
    """A stream and two branches on it, of which the second has two groups inside."""
    return [
        group("stem", 8, first=True),
        group("one.a", 20, least=0),
        group("two.a", 10, least=0),
        group("two.b", 5, least=0, lead="two.a"),
    ]


def test_with_depth_a_lead_may_keep_nothing_or_what_the_rules_allow_and_the_others_go_with_it():
    space = build_space(SpaceRules(depth=True, min_keep=0.3), bottlenecks())
    assert space.bounds["one.a"].levels() == [0, *range(6, 21)]
    assert space.bounds["two.b"].levels() == [2, 3, 4, 5]
    assert space.leads == {"two.b": "two.a"}
    assert space.narrowest() == {"one.a": 0, "two.a": 0, "two.b": 0}
    assert Allocation({"one.a": 6, "two.a": 0, "two.b": 0}) in space
    for outside in ({"one.a": 5, "two.a": 3, "two.b": 2}, {"one.a": 6, "two.a": 3, "two.b": 0}):
        assert Allocation(outside) not in space
    assert Allocation({"one.a": 6, "two.a": 0, "two.b": 2}) not in space


def test_between_nothing_and_the_narrowest_width_there_is_a_hole():
    bounds = Bounds(5, 20, 4, removable=True)
    assert bounds.levels() == [0, 8, 12, 16, 20]
    assert [bounds.below(width) for width in (0, 7.9, 8, 11, 20)] == [0, 0, 8, 8, 20]


def test_a_branch_stays_where_a_group_in_it_does_or_a_rule_says_so():
    rules = SpaceRules(depth=True, groups={"two.b": GroupRule(pin=True), "one.a": GroupRule(depth=False)})
    space = build_space(rules, bottlenecks())
    assert space.staying == {"one.a": "depth: false", "two.a": "two.b in it stays: pinned"}
    assert space.narrowest() == {"one.a": 2, "two.a": 1}
    with pytest.raises(UserError, match=r"groups\.one\.a\.depth is for spaces of which depth is true as a whole"):
        SpaceRules(groups={"one.a": GroupRule(depth=True)})


def test_what_is_gone_in_a_narrowed_space_does_not_come_back():
    space = build_space(SpaceRules(depth=True), bottlenecks())
    narrowed = space.narrowed({"one.a": 12, "two.a": 0, "two.b": 0})
    assert narrowed.widest() == {"one.a": 12, "two.a": 0, "two.b": 0}
    assert narrowed.bounds["one.a"].removable
    assert narrowed.narrowest() == space.narrowest()


def test_a_network_without_groups_is_refused_with_all_reasons() -> None:
    with pytest.raises(ConfigError, match=r"nothing in this network can be pruned:\n  one reason\n  another"):
        build_space(SpaceRules(), (), ["one reason", "another"])


def transformer():
    """The groups of a small transformer."""
    return [
        group("embed", 64, kind="stream", producers=("embed", "0.attention.out", "0.mlp.2")),
        group("0.attention.qkv", 4, kind="heads"),
        group("0.mlp.0", 128, kind="hidden"),
        group("pooler", 64),
    ]


def test_a_pattern_of_a_kind_matches_what_groups_are_and_no_names():
    space = build_space(SpaceRules(include=("kind:heads", "kind:hidden")), transformer())
    assert space.names == ("0.attention.qkv", "0.mlp.0")
    assert space.pinned == {"embed": "not included", "pooler": "not included"}
    rules = SpaceRules(exclude=("kind:stream",), multiple_of=8, groups={"kind:heads": GroupRule(multiple_of=1)})
    space = build_space(rules, transformer())
    assert {name: space.bounds[name].step for name in space.names} == {"0.attention.qkv": 1, "0.mlp.0": 8, "pooler": 8}


def test_a_network_may_lack_a_kind_but_an_unknown_kind_is_refused():
    assert build_space(SpaceRules(exclude=("kind:heads",)), resnet()).names
    with pytest.raises(ConfigError, match=r"exclude: 'kind:head' matches no group; did you mean 'kind:heads'\?"):
        build_space(SpaceRules(exclude=("kind:head",)), transformer())
    with pytest.raises(ConfigError, match=r"no group is left to prune(?s:.*)not included"):
        build_space(SpaceRules(include=("kind:heads",)), resnet())
