"""The work queue in virtual time."""

import asyncio
import itertools
import logging

import pytest
import structlog
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import REGISTRY

from kumulus_runtime.errors import Conflict, Retryable
from kumulus_runtime.workqueue import Backoff, Retry, WorkQueue

pytestmark = pytest.mark.usefixtures("quiet")
_names = itertools.count()


@pytest.fixture(scope="module")
def quiet():
    """Hundreds of expected failures are not written out."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    yield
    structlog.reset_defaults()


def make_queue(**overrides):
    """A queue with its own metrics and no luck."""
    return WorkQueue(**({"name": f"test-{next(_names)}", "chance": lambda: 0.5} | overrides))


def sample(metric, queue):
    """The value of one of its metrics."""
    return REGISTRY.get_sample_value(metric, {"name": queue._name})


async def run_for(queue, reconcile, seconds, workers=2):
    """Run the queue for some virtual seconds."""
    task = asyncio.create_task(queue.run(reconcile, workers))
    await asyncio.sleep(seconds)
    queue.stop()
    await task


adds = st.lists(
    st.tuples(st.floats(0, 2), st.sampled_from("abc"), st.sampled_from([None, 0.0, 0.3, 1.0])),
    max_size=30,
)
FAILURES = {
    "retry": lambda: Retry(0.2),
    "conflict": lambda: Conflict(409, "Conflict", ""),
    "retryable": lambda: Retryable(503, "", "", delay=0.4),
    "error": ZeroDivisionError,
}
outcomes = st.lists(st.sampled_from(["ok", "again", *FAILURES]), max_size=30)


@settings(max_examples=150, deadline=None)
@given(adds, outcomes, st.integers(1, 4), st.floats(0.001, 0.5))
def test_each_add_is_handled_after_it_and_never_twice_at_once(in_virtual_time, adds, outcomes, workers, effort):
    """No key is handled by two workers at once, and each add is followed by the start of a successful handling."""
    queue = make_queue()
    running, started, added_at = set(), {}, {}
    script = iter(outcomes)

    async def reconcile(key):
        assert key not in running
        running.add(key)
        began = asyncio.get_running_loop().time()
        await asyncio.sleep(effort)
        running.remove(key)
        outcome = next(script, "ok")
        if outcome in FAILURES:
            raise FAILURES[outcome]()
        started[key] = began
        return 0.7 if outcome == "again" else None

    async def scenario():
        loop = asyncio.get_running_loop()

        def add(key, after):
            if after is None:
                added_at[key] = loop.time()  # asyncio may call up to its clock's resolution before the wanted time
                queue.add(key)
            else:
                queue.add_after(key, after)

        for at, key, after in adds:
            loop.call_later(at, add, key, after)
        await run_for(queue, reconcile, 600, workers)

    in_virtual_time(scenario)
    for _, key, _ in adds:
        # An add_after that merges with an earlier one is served by the earlier one, or by a later add.
        assert key in started
    for key, at in added_at.items():
        assert started[key] >= at


def test_an_add_during_handling_causes_one_more_handling(in_virtual_time):
    """A key added any number of times while it is handled is handled exactly once more."""
    queue, handled = make_queue(), []

    async def reconcile(key):
        handled.append(key)
        if len(handled) == 1:
            queue.add(key)
            queue.add(key)
        await asyncio.sleep(1)

    async def scenario():
        queue.add("a")
        queue.add("a")
        await run_for(queue, reconcile, 10)

    in_virtual_time(scenario)
    assert handled == ["a", "a"]


def test_the_earliest_delay_wins(in_virtual_time):
    """Of several delays for a key only the earliest counts, in whatever order they are given."""
    queue, handled = make_queue(), []

    async def reconcile(key):
        handled.append((key, asyncio.get_running_loop().time() - 1000.0))

    async def scenario():
        for seconds in (5.0, 2.0, 7.0):
            queue.add_after("a", seconds)
        await run_for(queue, reconcile, 30)

    in_virtual_time(scenario)
    assert handled == [("a", pytest.approx(2.0))]


@given(st.integers(1, 10_000), st.floats(0, 1), st.floats(1e-4, 10), st.floats(1e-4, 1000))
def test_backoff_is_bounded(failures, chance, base, ceiling):
    """Whatever the number of failures and the luck, the delay lies between base and ceiling."""
    delay = Backoff(base, ceiling).delay(failures, chance)
    assert min(base, ceiling) <= delay <= ceiling


@given(st.integers(1, 40), st.floats(0, 1))
def test_backoff_never_shrinks_for_the_same_luck(failures, chance):
    """With equal luck, one more failure never shortens the wait."""
    assert Backoff().delay(failures, chance) <= Backoff().delay(failures + 1, chance)


def test_success_forgets_the_failures(in_virtual_time):
    """After a success the next failure waits as short as the first one did."""
    queue, times = make_queue(), []
    script = iter(["error", "error", "error", "ok", "error", "ok"])

    async def reconcile(key):
        times.append(asyncio.get_running_loop().time())
        if next(script) == "error":
            raise ZeroDivisionError
        if len(times) == 4:
            queue.add(key)

    async def scenario():
        queue.add("a")
        await run_for(queue, reconcile, 30)

    in_virtual_time(scenario)
    waits = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert waits[1] < waits[2]
    assert waits[4] == pytest.approx(waits[0])


def test_the_server_decides_the_least_delay(in_virtual_time):
    """A Retry-After longer than the backoff is waited for."""
    queue, times = make_queue(), []

    async def reconcile(_key):
        times.append(asyncio.get_running_loop().time())
        if len(times) == 1:
            raise Retryable(429, "TooManyRequests", "", delay=9.0)

    async def scenario():
        queue.add("a")
        await run_for(queue, reconcile, 30)

    in_virtual_time(scenario)
    assert times[1] - times[0] == pytest.approx(9.0)


def test_stop_finishes_what_runs_and_starts_nothing(in_virtual_time):
    """After stop the running key is finished, and neither waiting nor delayed nor new keys are begun."""
    queue, begun, finished = make_queue(), [], []

    async def reconcile(key):
        begun.append(key)
        await asyncio.sleep(5)
        finished.append(key)

    async def scenario():
        for key in "abc":
            queue.add(key)
        queue.add_after("d", 2)
        task = asyncio.create_task(queue.run(reconcile, 1))
        await asyncio.sleep(1)
        queue.stop()
        queue.add("e")
        await task

    in_virtual_time(scenario)
    assert begun == finished == ["a"]


def test_metrics_are_those_of_controller_runtime(in_virtual_time):
    """Adds, depth, retries, latency, work and the longest runner are exported under controller-runtime's names."""
    queue = make_queue()
    seen = {}

    async def reconcile(key):
        seen["depth"] = sample("workqueue_depth", queue)
        if key == "b":
            raise ZeroDivisionError

    async def scenario():
        queue.add("a")
        queue.add("a")
        queue.add("b")
        await run_for(queue, reconcile, 0.0001, workers=1)

    in_virtual_time(scenario)
    assert sample("workqueue_adds_total", queue) == 2
    assert sample("workqueue_retries_total", queue) == 1
    assert sample("workqueue_queue_duration_seconds_count", queue) == 2
    assert sample("workqueue_work_duration_seconds_count", queue) == 2
    assert sample("workqueue_longest_running_processor_seconds", queue) == 0
    assert seen["depth"] == 0


async def test_many_keys_let_others_work():
    """However many keys have nothing to do, what else the process does has its turns in between."""
    queue, turns, done = WorkQueue("crowd"), 0, asyncio.Event()

    async def reconcile(key):
        if key == 999:
            done.set()

    async def others():
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    for key in range(1000):
        queue.add(key)
    tasks = [asyncio.create_task(queue.run(reconcile, 10)), asyncio.create_task(others())]
    async with asyncio.timeout(10):
        await done.wait()
    for task in tasks:
        task.cancel()
    assert turns >= 90
