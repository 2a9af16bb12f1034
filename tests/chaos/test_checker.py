"""The checker finds each kind of broken promise planted in a history, and nothing in histories without one."""

import random
from dataclasses import replace

import pytest

from mesh.model import Place
from tests.chaos.checker import Rules, check
from tests.chaos.history import Outcome, Read, Seen, patch, properties, seen_of
from tests.chaos.story import KEY, STEP, Story


@pytest.fixture
def story() -> Story:
    """Return a place that was inserted and updated twice, and is read."""
    told = Story()
    told.do("insert")
    told.do("update")
    told.do("update")
    told.read(3.6, told.now)
    return told


def last(story: Story) -> Seen:
    assert story.now
    return story.now


# -- what is right -----------------------------------------------------------------------------------------------------


def test_a_history_that_keeps_every_promise_is_clean(story: Story):
    """Every kind of operation, all acknowledged, read between and at the end."""
    story.do("move", "south")
    story.do("upsert", "south")
    story.read(5.6, story.now)
    story.do("delete")
    story.read(6.6, None)

    verdict = story.judge()

    assert verdict.violations == []
    assert (verdict.keys, verdict.acknowledged, verdict.unknown, verdict.reads) == (1, 6, 0, 3)


@pytest.mark.parametrize("happens", [True, False])
@pytest.mark.parametrize("kind", ["update", "upsert", "move", "delete"])
@pytest.mark.parametrize("outcome", [Outcome.UNKNOWN, Outcome.STUCK])
def test_an_operation_of_unknown_outcome_may_have_happened_or_not(
    story: Story, kind: str, outcome: Outcome, *, happens: bool
):
    """Either is right."""
    story.do(kind, "ne", outcome, happens=happens)
    story.read(9.0, story.now)

    assert story.kinds() == []


def test_an_operation_of_unknown_outcome_may_happen_late(story: Story):
    """An update that timed out may reach the store after the next one was acknowledged."""
    late = story.do("update", outcome=Outcome.UNKNOWN, happens=False)
    story.do("update")
    story.read(5.6, story.now)
    after = replace(last(story), version=last(story).version + 1, marks=last(story).marks | {late.number})
    story.read(7.0, after)

    assert story.kinds(after) == []


def test_a_read_during_a_write_may_see_either_side(story: Story):
    """Before it or after it, as long as the write is under way."""
    before = last(story)
    story.do("update")
    story.read(4.1, before)
    story.read(4.3, last(story))

    assert story.kinds() == []


def test_random_true_histories_are_clean():
    """Hundreds of histories with operations of unknown outcome, each of which happened or did not."""
    for seed in range(300):
        chance, told = random.Random(seed), Story()
        told.do("insert")
        for _ in range(chance.randint(0, 8)):
            unknown = chance.random() < 0.2
            happens = not unknown or chance.random() < 0.5
            told.do(chance.choice(["update", "upsert", "move"]), outcome=Outcome.UNKNOWN if unknown else Outcome.OK,
                    happens=happens)  # fmt: skip
            told.read(len(told.ops) * STEP + 0.6, told.now)

        assert told.kinds() == [], seed


# -- what is wrong -----------------------------------------------------------------------------------------------------


def test_an_acknowledged_place_that_is_gone_is_found(story: Story):
    """Nothing is stored, and nobody deleted it."""
    verdict = check(story.ops, [], {}, {}, Rules())

    assert [violation.kind for violation in verdict.violations] == ["lost"]


@pytest.mark.parametrize("lost", [2, 3])
def test_an_acknowledged_update_that_is_gone_is_found(story: Story, lost: int):
    """Whether the version tells of it or hides it."""
    stored = replace(last(story), marks=last(story).marks - {lost})

    assert story.kinds(stored) == ["lost"]
    assert story.kinds(replace(stored, version=2)) == ["lost"]


def test_an_acknowledged_update_that_a_later_answer_lacks_is_found(story: Story):
    """The contradiction is in what the client was told, whatever is stored."""
    op = story.do("update")
    assert op.seen
    op.seen = replace(op.seen, marks=op.seen.marks - {2})

    assert story.kinds() == ["lost"]


def test_a_write_that_was_done_twice_is_found(story: Story):
    """The version grew by two."""
    twice = replace(last(story), version=last(story).version + 1)

    assert story.kinds(twice) == ["applied twice"]


def test_a_write_of_unknown_outcome_that_was_done_twice_is_found(story: Story):
    """Unknown means once or never."""
    story.do("update", outcome=Outcome.UNKNOWN)
    twice = replace(last(story), version=last(story).version + 1)

    assert story.kinds() == []
    assert story.kinds(twice) == ["applied twice"]


def test_an_insert_that_met_itself_is_found():
    """A new id that nobody else uses cannot exist: the insert was done, and done again."""
    told = Story()
    told.do("insert", outcome=Outcome.REFUSED, happens=False).error = "conflict: the id exists"

    assert told.kinds() == ["applied twice"]


def test_a_refused_write_that_was_done_is_found(story: Story):
    """BUSY promises that nothing was done."""
    before = last(story)
    story.do("update", outcome=Outcome.REFUSED).error = "busy: try again"

    assert story.kinds() == ["phantom"]
    assert story.kinds(before) == []


def test_a_write_that_half_happened_is_found(story: Story):
    """A move whose position is stored without its version."""
    story.do("move", "ne", Outcome.UNKNOWN, happens=False)
    half = replace(last(story), at=4, lon=4.0)

    assert story.kinds(half) == ["mixed up"]


def test_two_copies_are_found(story: Story):
    """Of a place whose move was acknowledged the old copy must not stay."""
    before = last(story)
    story.do("move", "south")

    assert story.kinds(before, last(story)) == ["applied twice"]


@pytest.mark.parametrize(("rules", "kinds"), [(Rules(), []), (Rules(atomic_moves=True), ["applied twice"])])
def test_a_move_torn_in_the_middle_is_a_known_limit_until_moves_are_atomic(
    story: Story, rules: Rules, kinds: list[str]
):
    """A move across a border whose outcome is unknown may leave both copies today, and is counted."""
    before = last(story)
    story.do("move", "south", Outcome.UNKNOWN)
    verdict = story.judge(before, last(story), rules=rules)

    assert [violation.kind for violation in verdict.violations] == kinds
    assert verdict.known == ({} if kinds else {"torn move": 1})


def test_of_a_torn_move_the_mesh_may_show_either_copy(story: Story):
    """It should show the newer one, and what it shows is counted."""
    before = last(story)
    story.do("move", "south", Outcome.UNKNOWN)
    verdict = story.judge(before, last(story), answered=before)

    assert verdict.violations == []
    assert verdict.known == {"torn move": 1, "old copy of a torn move": 1}


def test_a_deleted_place_that_is_there_is_found(story: Story):
    """An acknowledged delete is final, since its key is never used again."""
    held = last(story)
    story.do("delete")

    assert story.kinds(held) == ["phantom"]


def test_a_place_nobody_wrote_is_found(story: Story):
    """In the shards, in an answer of the mesh, or by a reader alone."""
    held = last(story)
    for stored, answered, reads in (
        ({"other": [held]}, {}, []),
        ({}, {"other": held}, []),
        ({}, {}, [Read("r1", "other", 1.0, 1.1, held)]),
    ):
        verdict = check([], reads, stored, answered)
        assert [violation.kind for violation in verdict.violations] == ["phantom"]


def test_a_mark_nobody_made_is_found(story: Story):
    """An update that no client asked for."""
    assert story.kinds(replace(last(story), marks=frozenset({2, 3, 9}))) == ["phantom"]


def test_a_place_in_the_wrong_shard_is_found(story: Story):
    """It is the copy that was written, but not where it belongs."""
    assert story.kinds(replace(last(story), region="ca")) == ["mixed up"]


def test_writes_out_of_order_are_found(story: Story):
    """An upsert that replaces all, then an update: what is left must have the update."""
    story.do("upsert")
    story.do("update")
    swapped = replace(last(story), marks=frozenset())

    assert story.kinds(swapped) == ["lost"]


@pytest.mark.parametrize("takes", [0.1, 3.0])
def test_a_stale_read_is_found(story: Story, takes: float):
    """A read that began after a write was acknowledged must show it; one that began before need not."""
    old = replace(last(story), version=2, marks=frozenset({2}))
    story.reads.clear()
    story.read(6.0, old, takes)
    assert story.kinds() == ["wrong read"]

    story.reads.clear()
    story.read(3.4, old, takes)
    assert story.kinds() == []


def test_a_read_that_misses_a_place_is_found(story: Story):
    """Nobody deleted it."""
    story.read(7.0, None)

    assert "lost to a reader" in story.kinds()


def test_a_reader_who_goes_back_in_version_is_found(story: Story):
    """Each of two reads is possible while a write is of unknown outcome, but not in this order."""
    before = last(story)
    story.do("update", outcome=Outcome.UNKNOWN)
    story.read(5.0, last(story))
    story.read(6.0, before)

    assert story.kinds() == ["went back"]


def test_a_stale_read_that_did_not_promise_more_is_allowed(story: Story):
    """From a secondary an older state is right, one that never was is not."""
    old = replace(last(story), version=2, marks=frozenset({2}))
    story.reads = [Read("r1", KEY, 6.0, 6.1, old, primary=False)]
    assert story.kinds() == []

    story.reads = [Read("r1", KEY, 6.0, 6.1, replace(old, version=7), primary=False)]
    assert story.kinds() == ["wrong read"]


def test_reads_at_the_same_time_may_see_a_write_in_any_order(story: Story):
    """Only a read that had ended binds those that begin later."""
    before = last(story)
    story.do("update", outcome=Outcome.UNKNOWN)
    story.read(5.0, last(story), takes=1.0)
    story.read(5.5, before, takes=1.0)

    assert story.kinds() == []


def test_secondaries_may_be_read_in_any_order(story: Story):
    """Each may be as far behind as it likes."""
    before = last(story)
    story.do("update", outcome=Outcome.UNKNOWN)
    for at, seen in ((5.0, last(story)), (6.0, before)):
        story.reads.append(Read("r1", KEY, at, at + 0.1, seen, primary=False))

    assert story.kinds() == []


def test_a_read_that_sees_the_future_is_found(story: Story):
    """What is written later cannot be seen now."""
    story.do("update")
    story.read(3.6, last(story))

    assert "wrong read" in story.kinds()


def test_a_refusal_that_denies_what_is_there_is_found(story: Story):
    """NotFound for a place that was acknowledged."""
    story.do("update", outcome=Outcome.REFUSED, happens=False).error = "not_found: no region holds it"

    assert story.kinds() == ["lost"]


def test_an_acknowledged_operation_that_cannot_have_been_done_is_found(story: Story):
    """An insert of what is there, and a delete of what is not."""
    held = story.now
    story.do("insert", happens=False).seen = held
    assert story.kinds() == ["mixed up"]

    told = Story()
    told.do("insert")
    told.do("delete")
    told.do("delete")
    assert len(told.kinds()) == 1


def test_a_late_move_that_takes_a_place_back_is_found(story: Story):
    """A move that is not newer than the stored position changes nothing, whenever it happens."""
    late = story.do("move", "ne", Outcome.UNKNOWN, happens=False)
    story.do("move", "ne")
    held = last(story)

    assert story.kinds() == []
    assert story.kinds(replace(held, version=held.version + 1, at=late.number, lon=late.lon)) == ["applied twice"]


def test_a_place_missed_while_it_crosses_a_border_is_a_known_limit(story: Story):
    """A reader who asks everywhere may ask both regions at the wrong moment; otherwise it is lost."""
    story.do("move", "south")
    story.read(4.2, None)
    verdict = story.judge()

    assert verdict.violations == []
    assert verdict.known == {"missed while it moved": 1}


def test_a_mesh_that_says_something_else_than_its_shards_is_found(story: Story):
    """Read back through the mesh, a place must be its newest copy."""
    other = replace(last(story), version=2)
    verdict = story.judge(last(story), answered=other)

    assert [violation.kind for violation in verdict.violations] == ["wrong answer"]


def test_a_violation_prints_the_history_that_shows_it(story: Story):
    """Every operation of the key with times and outcome, one a line."""
    (violation,) = story.judge(replace(last(story), version=9)).violations

    assert [f"{op.kind} #{op.number}" in line for op, line in zip(story.ops, violation.history, strict=True)]
    assert "v9" in str(violation)


# -- places ------------------------------------------------------------------------------------------------------------


def test_what_operations_leave_in_a_place_is_read_back():
    """The base and the marks from properties, the number of the last move from the timestamp."""
    place = Place(KEY, -74.0, 40.7, properties(1) | patch(2) | patch(5), None, 4, 3.0, "ne")

    assert seen_of(place) == Seen("ne", 4, 1, frozenset({2, 5}), 3, -74.0, 40.7)


@pytest.mark.parametrize(
    ("content", "timestamp"), [({}, 1.0), ({"base": 1}, None), ({"base": 1, "m2": 3}, 1.0), ({"base": 1, "x": 1}, 1.0)]
)
def test_a_place_that_no_client_can_have_written_is_refused(content: dict[str, int], timestamp: float | None):
    """Missing or foreign properties are no history."""
    with pytest.raises(ValueError, match=KEY):
        seen_of(Place(KEY, -74.0, 40.7, content, None, 1, timestamp, "ne"))
