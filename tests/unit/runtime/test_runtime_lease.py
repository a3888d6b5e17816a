"""Leadership and heartbeat against a Lease that behaves as the API server's, in virtual time."""

import asyncio
import copy

import pytest

from kumulus_runtime.errors import AlreadyExists, Conflict, NotFound, Retryable
from kumulus_runtime.lease import Heartbeat, Leadership, LeadershipLost

START = 1000.0


class LeaseServer:
    """One Lease with resourceVersions, and a switch to cut it off."""

    def __init__(self):
        self.lease = None
        self.version = 0
        self.cut = False
        self.writes = 0

    def _store(self, body):
        self.version += 1
        self.writes += 1
        self.lease = copy.deepcopy(body)
        self.lease["metadata"] |= {"uid": "u", "resourceVersion": str(self.version)}
        return copy.deepcopy(self.lease)

    def _check(self):
        if self.cut:
            raise Retryable(0, "Unreachable", "cut off")

    async def get(self, _kind, _name, _namespace=None):
        """Read."""
        self._check()
        return copy.deepcopy(self.lease)

    async def create(self, _kind, body):
        """Create if absent."""
        self._check()
        if self.lease is not None:
            raise AlreadyExists(409, "AlreadyExists", "")
        return self._store(body)

    async def update(self, _kind, body):
        """Replace if the version fits."""
        self._check()
        if self.lease is None:
            raise NotFound(404, "NotFound", "")
        if body["metadata"]["resourceVersion"] != self.lease["metadata"]["resourceVersion"]:
            raise Conflict(409, "Conflict", "")
        return self._store(body)

    async def patch_merge(self, _kind, _name, patch, _namespace=None):
        """Merge into the spec."""
        self._check()
        if self.lease is None:
            raise NotFound(404, "NotFound", "")
        return self._store(self.lease | {"spec": self.lease["spec"] | patch["spec"]})


class CutOff:
    """One candidate's way to the server, which can be cut alone."""

    def __init__(self, server):
        self.server = server
        self.cut = False

    def __getattr__(self, name):
        if self.cut:

            async def refuse(*_):
                raise Retryable(0, "Unreachable", "cut off")

            return refuse
        return getattr(self.server, name)


def make_leadership(client, identity, **overrides):
    """A candidate on the virtual clock."""
    clock = asyncio.get_running_loop().time
    return Leadership(client, "kumulus-system", identity=identity, clock=clock, **overrides)


def elapsed():
    """Virtual seconds since the start."""
    return asyncio.get_running_loop().time() - START


async def forever():
    """Never return."""
    await asyncio.Event().wait()


def test_the_first_leads_at_once_and_releases(in_virtual_time):
    """Without a Lease nobody is waited for, and after a graceful end the next one need not wait either."""

    async def scenario():
        server = LeaseServer()

        async def lead():
            assert first.valid
            await asyncio.sleep(100)

        first = make_leadership(server, "a")
        await first.run(lead)
        assert not first.valid
        assert elapsed() == pytest.approx(100)
        assert server.lease["spec"]["holderIdentity"] == ""
        await make_leadership(server, "b").acquire()
        assert elapsed() == pytest.approx(100)
        assert server.lease["spec"]["leaseTransitions"] == 1

    in_virtual_time(scenario)


def test_a_crashed_leader_is_waited_out_twice(in_virtual_time):
    """A Lease that was not released is taken after a duration without change, and used after one more."""

    async def scenario():
        server = LeaseServer()
        await make_leadership(server, "a").acquire()
        second = make_leadership(server, "b")
        await second.acquire()
        assert 30 <= elapsed() <= 34
        assert second.valid
        assert server.lease["spec"]["holderIdentity"] == "b"

    in_virtual_time(scenario)


def test_never_two_leaders_when_one_is_cut_off(in_virtual_time):
    """A leader without the API has stopped before the next one starts, and says so."""

    async def scenario():
        server = LeaseServer()
        way = CutOff(server)
        leading, ends, starts = set(), [], []

        async def lead(name):
            leading.add(name)
            assert len(leading) == 1
            starts.append((name, elapsed()))
            try:
                await forever()
            finally:
                leading.remove(name)
                ends.append((name, elapsed()))

        first = asyncio.create_task(make_leadership(way, "a").run(lambda: lead("a")))
        await asyncio.sleep(50)
        second = asyncio.create_task(make_leadership(server, "b").run(lambda: lead("b")))
        await asyncio.sleep(50)
        assert leading == {"a"}
        way.cut = True
        with pytest.raises(LeadershipLost):
            await first
        assert 100 < ends[0][1] <= 115 - 5
        await asyncio.sleep(60)
        assert leading == {"b"}
        assert starts[1][1] >= ends[0][1] + 15
        second.cancel()
        await asyncio.gather(second, return_exceptions=True)
        assert server.lease["spec"]["holderIdentity"] == ""

    in_virtual_time(scenario)


def test_a_short_outage_is_survived(in_virtual_time):
    """An API server that is away for a few seconds costs nobody the Lease."""

    async def scenario():
        server = LeaseServer()
        leadership = make_leadership(server, "a")
        task = asyncio.create_task(leadership.run(forever))
        await asyncio.sleep(21)
        server.cut = True
        await asyncio.sleep(5)
        server.cut = False
        await asyncio.sleep(60)
        assert leadership.valid
        assert not task.done()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    in_virtual_time(scenario)


def test_a_lease_taken_by_another_ends_the_leader(in_virtual_time):
    """A leader that finds another name in its Lease stops at once and leaves that Lease alone."""

    async def scenario():
        server = LeaseServer()
        task = asyncio.create_task(make_leadership(server, "a").run(forever))
        await asyncio.sleep(10)
        server._store(server.lease | {"spec": server.lease["spec"] | {"holderIdentity": "thief"}})
        with pytest.raises(LeadershipLost, match="thief"):
            await task
        assert elapsed() < 15
        assert server.lease["spec"]["holderIdentity"] == "thief"

    in_virtual_time(scenario)


def test_who_does_not_stop_in_time_ends_with_the_process(in_virtual_time):
    """Work that ignores its cancellation is ended by the hard exit before the Lease ends."""

    async def scenario():
        server, gave_up = LeaseServer(), []

        async def stubborn():
            while True:
                try:
                    await asyncio.sleep(1)
                except asyncio.CancelledError:
                    await asyncio.sleep(100)
                    return

        leadership = make_leadership(server, "a", give_up=lambda: gave_up.append(elapsed()))
        task = asyncio.create_task(leadership.run(stubborn))
        await asyncio.sleep(50)
        server.cut = True
        with pytest.raises(LeadershipLost):
            await task
        assert gave_up
        assert gave_up[0] <= 50 + 15

    in_virtual_time(scenario)


def test_the_heartbeat_makes_and_renews_its_lease(in_virtual_time):
    """The agent's Lease is made when absent, renewed every ten seconds and again soon after an outage."""

    async def scenario():
        server, beats = LeaseServer(), []
        heartbeat = Heartbeat(server, "h1", renewed=lambda: beats.append(elapsed()))
        task = asyncio.create_task(heartbeat.run())
        await asyncio.sleep(25)
        assert server.lease["metadata"]["name"] == "host-h1"
        assert server.lease["spec"]["leaseDurationSeconds"] == 40
        assert len(beats) == 3
        server.cut = True
        await asyncio.sleep(30)
        server.cut = False
        await asyncio.sleep(2)
        assert len(beats) == 4
        task.cancel()

    in_virtual_time(scenario)


def test_the_next_process_of_a_pod_goes_on_at_once(in_virtual_time):
    """A process that finds the Lease held by its own identity leads without waiting for the Lease to run out."""

    async def scenario():
        server = LeaseServer()
        await make_leadership(server, "pod-1").acquire()
        await make_leadership(server, "pod-1").acquire()
        assert elapsed() == 0

    in_virtual_time(scenario)
