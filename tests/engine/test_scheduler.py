"""The scheduler under any order of arrivals and endings: nothing lost, nothing twice, slots contiguous."""

from hypothesis import given, settings
from hypothesis import strategies as st

from farthing.engine.scheduler import Request, Scheduler


@settings(deadline=None, max_examples=50)
@given(
    sizes=st.lists(st.integers(1, 7), max_size=9),
    num_slots=st.integers(1, 8),
    endings=st.randoms(use_true_random=False),
)
def test_every_completion_is_placed_once_in_contiguous_slots(sizes: list[int], num_slots: int, endings: object) -> None:
    choose = endings.sample  # type: ignore[attr-defined]
    scheduler = Scheduler(num_slots)
    requests = [Request(index, [1], list(range(size))) for index, size in enumerate(sizes)]
    scheduler.submit(requests)
    placed: list[tuple[int, int]] = []
    memory: dict[int, tuple[int, int]] = {}  # what a cache would hold, slot by slot
    while scheduler.has_work:
        before = len(scheduler.active)
        for request, slots in scheduler.admit():
            first = request.num_placed - len(slots)
            for offset, slot in enumerate(slots):
                memory[slot] = (request.index, first + offset)
                placed.append(memory[slot])
        assert len(scheduler.active) <= num_slots
        assert not scheduler.waiting or len(scheduler.active) == num_slots, "a free slot was left empty"
        assert len(scheduler.active) >= before
        assert [memory[slot] for slot in range(len(scheduler.active))] == scheduler.active
        num_active = len(scheduler.active)
        finished = choose(range(num_active), max(1, num_active // 2))
        left = {scheduler.active[slot] for slot in range(num_active) if slot not in finished}
        moves = scheduler.release(finished)
        sources, targets = {m[0] for m in moves}, {m[1] for m in moves}
        assert len(sources) == len(targets) == len(moves)
        assert not sources & targets
        for source, target in moves:
            memory[target] = memory[source]
        assert [memory[slot] for slot in range(len(scheduler.active))] == scheduler.active
        assert set(scheduler.active) == left
        assert len(scheduler.active) == num_active - len(finished)
    assert placed == [(index, number) for index, size in enumerate(sizes) for number in range(size)]
    assert all(request.num_waiting == 0 for request in requests)


def test_worked_by_hand() -> None:
    scheduler = Scheduler(4)
    first, second = Request(0, [1], [10, 11, 12]), Request(1, [2], [20, 21, 22])
    scheduler.submit([first, second])
    assert scheduler.admit() == [(first, [0, 1, 2]), (second, [3])]
    assert scheduler.admit() == []
    # slots 0 and 2 end: slot 3 closes the first hole, slot 1 stays
    assert scheduler.release([2, 0]) == [(3, 0)]
    assert scheduler.active == [(1, 0), (0, 1)]
    assert scheduler.admit() == [(second, [2, 3])]
    assert scheduler.active == [(1, 0), (0, 1), (1, 1), (1, 2)]
    assert scheduler.release([0, 1, 2, 3]) == []
    assert not scheduler.has_work
