"""Migrations that this host has a part in: one reconcile per ServerAction."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any, Final

import structlog

from kumulus_agent.host.inventory import HOST_ROOT
from kumulus_agent.migration.agreement import agree, asked_of, hello_of, is_elsewhere, may_come
from kumulus_agent.migration.channels import Channel, Denied, Hello, libvirt_socket, make_sockets, sockets_of
from kumulus_agent.migration.credentials import NoCredentials
from kumulus_agent.migration.domains import Done, Wish
from kumulus_agent.migration.host_port import HostPort
from kumulus_agent.migration.listener import Serve
from kumulus_agent.migration.plan import State, View
from kumulus_agent.migration.reports import (
    SOURCE,
    TARGET,
    MigrationReporter,
    Word,
    aborted,
    handed_over,
    memory_lost,
    not_carried,
    report_of,
)
from kumulus_agent.migration.source import Elsewhere, NotCarriedOver, Source, ask_target
from kumulus_agent.migration.target import NotPrepared, Target, remove_volumes
from kumulus_agent.migration.tunnel import Peer, Tunnel
from kumulus_agent.servers.desired import Desired, Key, read_desired
from kumulus_agent.servers.instances import Instances
from kumulus_agent.servers.remove import remove_instance
from kumulus_agent.servers.start import Actuators
from kumulus_api import Host, Server, ServerAction
from kumulus_api.server_action import ENDED, MIGRATIONS, ActionPhase, ActionReason, ActionType
from kumulus_runtime.api_client import ApiError, NotFound
from kumulus_runtime.store import Store
from kumulus_runtime.workqueue import WorkQueue

Object = dict[str, Any]
_NEED: Final = "migration"
_QEMU_HOME: Final = "var/lib/libvirt/qemu"
_LOOK_AGAIN: Final = 1.0
_OPEN: Final = ActionPhase.RUNNING.value

_log = structlog.stdlib.get_logger(__name__)


class MigrationController:
    """Plays this host's part in migrations.

    Args:
        actuators: as for starting servers.
        instances: what the agent remembers of the instances here.
        store: what the watches have shown.
        check_capacity: raises StepFailed if an instance does not fit.
        server_changed: has a Server looked at.
        port: where other hosts come.
    """

    def __init__(
        self,
        actuators: Actuators,
        instances: Instances,
        store: Store,
        check_capacity: Callable[[Desired], None],
        server_changed: Callable[[Key], None],
        *,
        port: HostPort,
    ) -> None:
        settings = actuators.settings
        self._actuators = actuators
        self._client = actuators.client
        self._node = settings.node_name
        self._instances = instances
        self._store = store
        self._server_changed = server_changed
        self._source = Source(actuators)
        self._target = Target(actuators, check_capacity)
        self._reporter = MigrationReporter(actuators.client, settings.node_name)
        self._port = port
        port.serve((Channel.CONTROL, Channel.MEMORY, Channel.DISKS, Channel.FILE), self._admit)
        self._actions: dict[Key, Object] = {}
        self._runs: dict[str, asyncio.Task[None]] = {}
        self._guests: dict[str, Desired] = {}
        """Guests that are expected here, by the action's uid."""
        self._gone: dict[Key, Object] = {}
        """Actions that have left the watch, of which this host may still expect a guest."""
        self._busy: dict[str, asyncio.Lock] = {}
        self.queue: WorkQueue[Key] = WorkQueue("migrations")

    async def follow(self, role: str) -> None:
        """Watch the actions in which this host has a part; never returns."""
        selector = f"status.{'host' if role == SOURCE else 'target'}={self._node}"
        async for event, body in self._client.watch(ServerAction, field_selector=selector):
            if event == "SYNCED" or (event != "DELETED" and body["spec"]["type"] not in MIGRATIONS):
                continue
            key = (body["metadata"]["namespace"], body["metadata"]["name"])
            if event != "DELETED":
                self._actions[key] = body
            elif (gone := self._actions.pop(key, None)) is not None and role == TARGET:
                self._gone[key] = gone
            self.queue.add(key)

    async def close(self) -> None:
        """End what goes on; guests on their way stay where they are."""
        for run in self._runs.values():
            run.cancel()
        await asyncio.gather(*self._runs.values(), return_exceptions=True)
        await self._port.release(_NEED)

    async def reconcile(self, key: Key) -> float | None:
        """Do what is next in a migration; give the seconds after which to look again, if any."""
        if (gone := self._gone.pop(key, None)) is not None:
            async with self._lock(gone):
                await self._forget(gone)
        action = self._actions.get(key)
        if action is None:
            return None
        status = action["status"]
        role = SOURCE if status.get("host") == self._node else TARGET
        # Two migrations of one server follow each other, and what the first has left may still be cleared away.
        async with self._lock(action):
            if status.get("phase") == _OPEN:
                return await (self._send(action) if role == SOURCE else self._take(action))
            if status.get("phase") in ENDED:
                await self._end(action, role)
        return None

    def _lock(self, action: Object) -> asyncio.Lock:
        return self._busy.setdefault(str(action["status"].get("instanceID")), asyncio.Lock())

    # The source.

    async def _send(self, action: Object) -> float | None:
        uid, own = action["metadata"]["uid"], report_of(action, SOURCE)
        if own.get("outcome") in ENDED:
            return None
        if uid in self._runs:
            if self._unwanted(action):
                await self._source.abort(action["status"]["instanceID"])
            return _LOOK_AGAIN
        server, desired = await self._live(action)
        if desired is None:
            return 5 * _LOOK_AGAIN  # the operator has not heard yet what we see, or the other way round
        if not own:
            if self._unwanted(action):
                await self._tell(action, SOURCE, aborted("it had not begun"))
                return None
            if report_of(action, TARGET).get("reason") != ActionReason.PREPARED:
                return None
            # Told before anything is done: whoever comes after us knows that the guest may be on its way.
            await self._tell(action, SOURCE, Word(ActionPhase.RUNNING, ActionReason.COPYING))
        self._store.apply("MODIFIED", server)
        run = asyncio.create_task(self._run(action, desired, begun=bool(own)))
        self._runs[uid] = run
        run.add_done_callback(partial(self._ran, action))
        return _LOOK_AGAIN

    def _ran(self, action: Object, run: asyncio.Task[None]) -> None:
        self._runs.pop(action["metadata"]["uid"], None)
        if not run.cancelled() and (error := run.exception()) is not None:
            _log.warning("migration interrupted", action=action["metadata"]["name"], error=str(error))
        self.queue.add_after((action["metadata"]["namespace"], action["metadata"]["name"]), _LOOK_AGAIN)

    def _unwanted(self, action: Object) -> bool:
        latest = self._actions.get((action["metadata"]["namespace"], action["metadata"]["name"]), action)
        server = self._store.get(Server, action["spec"]["server"]["name"], action["metadata"]["namespace"])
        return bool(latest["spec"].get("abort") or (server and server["metadata"].get("deletionTimestamp")))

    async def _run(self, action: Object, desired: Desired, *, begun: bool) -> None:
        """Carry a guest over, or find out where it is if that was begun before, and tell the end."""
        name = action["metadata"]["name"]
        _log.info("migration", action=name, instance=desired.instance_id, target=action["status"]["target"], anew=begun)
        word = await (self._live_end(action, desired, begun) if _live(action) else self._cold_end(action, desired))
        _log.info("migration ended", action=name, instance=desired.instance_id, outcome=word.reason, why=word.message)
        await self._tell(action, SOURCE, word)

    async def _live_end(self, action: Object, desired: Desired, begun: bool) -> Word:
        why = "the agent was restarted in the middle of it"
        tell = partial(self._tell, action, SOURCE)
        if not begun:
            try:
                async with await self._tunnel(action) as tunnel:
                    return handed_over(await self._source.live(tunnel, desired, self._wish(action, desired), tell))
            except (NotCarriedOver, NoCredentials, ApiError, OSError) as error:
                why = str(error)

        async def ask_there(clear: bool) -> View:
            return await self._ask_there(action, desired.instance_id, clear=clear)

        async def repair() -> None:
            try:
                async with await self._tunnel(action) as tunnel:
                    await self._source.repair(tunnel, desired.instance_id, self._wish(action, desired))
            except (NotCarriedOver, NoCredentials, ApiError, OSError) as error:
                _log.info("the post-copy is not taken up", action=action["metadata"]["name"], error=str(error))

        found = await self._source.find_out(desired.instance_id, Elsewhere(ask_there, repair), tell, why)
        if not found.here:
            await self._send_last_words(action, desired.instance_id)
        if found.memory_lost:
            host = self._node if found.here else action["status"]["target"]
            return memory_lost(host, why, moved=not found.here)
        if not found.here:
            return handed_over(Done(None, None))
        return aborted(why) if self._unwanted(action) else not_carried(why, self._node)

    async def _send_last_words(self, action: Object, instance_id: str) -> None:
        try:
            async with await self._tunnel(action) as tunnel:
                await self._source.send_last_words(tunnel, instance_id)
        except (NoCredentials, ApiError, OSError) as error:
            _log.warning("the console log stays behind", instance=instance_id, error=str(error))

    def _wish(self, action: Object, desired: Desired) -> Wish:
        asked = asked_of(action)
        post_copy = asked.post_copy and self._actuators.virt == "kvm"  # the operator has refused it otherwise
        volumes = frozenset(volume.volume_id for volume in desired.all_volumes)
        shared = frozenset(volume.volume_id for volume in desired.all_volumes if volume.shared)
        return Wish(desired.epoch + 1, asked.bandwidth, asked.auto_converge, post_copy, volumes, shared)

    async def _cold_end(self, action: Object, desired: Desired) -> Word:
        try:
            async with await self._tunnel(action) as tunnel:
                await self._source.cold(tunnel, desired, desired.epoch + 1)
        except (NotCarriedOver, NoCredentials, ApiError, OSError) as error:
            return not_carried(str(error), self._node)
        return handed_over(Done(None, None))

    async def _ask_there(self, action: Object, instance_id: str, *, clear: bool) -> View:
        target = action["status"]["target"]
        try:
            host = await self._client.get(Host, target)
            if host is None or host["spec"].get("decommissioned"):
                return View(State.ABSENT)  # an administrator's word: it never returns
            async with await self._tunnel(action) as tunnel:
                return await ask_target(tunnel, instance_id, clear=clear)
        except (NoCredentials, ApiError, OSError) as error:
            _log.info("the target cannot be asked", target=target, error=str(error))
            return View(State.UNREACHABLE)

    async def _tunnel(self, action: Object) -> Tunnel:
        settings, status = self._actuators.settings, action["status"]
        contexts = await self._port.contexts()
        host = await self._client.get(Host, status["target"])
        address = ((host or {}).get("status") or {}).get("tunnelAddress", "")
        sockets = await asyncio.to_thread(make_sockets, settings.run_dir, status["instanceID"], HOST_ROOT / _QEMU_HOME)
        peer = Peer(status["target"], address, settings.migration_port)
        return Tunnel(peer, contexts, hello_of(action), sockets, libvirt_socket(settings.libvirt_uri))

    # The target.

    async def _take(self, action: Object) -> float | None:
        uid, own = action["metadata"]["uid"], report_of(action, TARGET)
        if own.get("outcome") in ENDED:
            return None
        if uid not in self._guests:
            _, desired = await self._live(action)
            if desired is None:
                return 5 * _LOOK_AGAIN
            if not await self._expect(action, desired):
                return None
        if not own:
            await self._tell(action, TARGET, Word(ActionPhase.RUNNING, ActionReason.PREPARED))
        elif own.get("reason") != ActionReason.RECEIVED and await self._arrived(action):
            await self._tell(action, TARGET, Word(ActionPhase.RUNNING, ActionReason.RECEIVED))
        return None

    async def _arrived(self, action: Object) -> bool:
        return _live(action) and (await self._target.look(action["status"]["instanceID"])).arrived

    async def _expect(self, action: Object, desired: Desired) -> bool:
        """Prepare for a guest; give whether it may come."""
        found = await self._target.look(desired.instance_id)
        begun = bool(report_of(action, SOURCE))
        try:
            await self._port.contexts()
            if not begun:
                await self._target.prepare(desired, live=_live(action))
            elif found.state is not State.ABSENT and _live(action):
                # It came, or was coming, before this agent began: what it has here stays.
                await self._target.carry(desired)
                await self._target.plug(desired)
            await asyncio.to_thread(
                make_sockets, self._actuators.settings.run_dir, desired.instance_id, HOST_ROOT / _QEMU_HOME
            )
            await self._port.need(_NEED)
        except (NotPrepared, NoCredentials, OSError) as error:
            if begun:
                raise
            message = f"target: host {self._node}: {error}; the server stays where it is; transient: ask again"
            await self._tell(action, TARGET, Word(ActionPhase.FAILED, ActionReason.TARGET_FAILED, message))
            return False
        self._guests[action["metadata"]["uid"]] = desired
        return True

    async def _admit(self, peer: str, hello: Hello) -> Serve:
        """Judge a connection by what the API says now."""
        desired = self._guests.get(hello.uid)
        try:
            action = await self._client.get(ServerAction, hello.action, hello.namespace)
            server = None
            if action is not None:
                server = await self._client.get(Server, action["spec"]["server"]["name"], hello.namespace)
        except ApiError as error:
            raise Denied(f"the API server cannot be asked: {error}") from error
        if desired is None or not peer or not may_come(action, server, hello, (peer, self._node)):
            raise Denied(f"no migration of instance {hello.instance_id} from host {peer} to {self._node} goes on")
        sockets = sockets_of(self._actuators.settings.run_dir, hello.instance_id)

        async def serve(connection: Any, what: Hello) -> None:
            try:
                await self._target.serve(connection, what, desired, sockets)
            finally:
                if what.channel is Channel.CONTROL:
                    self.queue.add((hello.namespace, hello.action))

        return serve

    # The end.

    async def _end(self, action: Object, role: str) -> None:
        status, expected = action["status"], None
        if role == TARGET:
            expected = await self._expected_no_more(action)
            if expected is not None:
                await self._target.forget_keys(expected)
        left = role == SOURCE if status["phase"] == ActionPhase.SUCCEEDED else role == TARGET
        if not left or not await self._remains(status["instanceID"]):
            return
        if expected is not None:
            await self._target.clear(expected)  # we have made it, and nothing of it has ever run
        else:
            await self._clear(action)

    async def _forget(self, action: Object) -> None:
        """Remove what was made here for a guest whose migration was deleted before it began."""
        metadata = action["metadata"]
        live = await self._client.get(ServerAction, metadata["name"], metadata["namespace"])
        if live is not None and live["metadata"]["uid"] == metadata["uid"]:
            return
        expected = await self._expected_no_more(action)
        # A domain may be the guest itself on its way: its source, which knows, ends that.
        if expected is not None and (await self._target.look(expected.instance_id)).state is State.ABSENT:
            await self._target.clear(expected)

    async def _expected_no_more(self, action: Object) -> Desired | None:
        """Let nothing of a migration in any more, and give what was expected."""
        uid = action["metadata"]["uid"]
        expected = self._guests.pop(uid, None)
        await self._port.end(uid)
        if not self._guests:
            await self._port.release(_NEED)
        return expected

    async def _remains(self, instance_id: str) -> bool:
        files = await asyncio.to_thread(self._actuators.files(instance_id).exist)
        return files or (await self._target.look(instance_id)).state is not State.ABSENT

    async def _clear(self, action: Object) -> None:
        """Remove what an ended migration has left here.

        The proof is live: the operator has closed the action, which names this host for this instance and epoch, as the
        one that the guest has left or has not come to; and its Server is assigned elsewhere. That there is no Server
        proves nothing.
        """
        status, metadata = action["status"], action["metadata"]
        live = await self._client.get(ServerAction, metadata["name"], metadata["namespace"])
        if live is None or live["metadata"]["uid"] != metadata["uid"] or live["status"]["phase"] != status["phase"]:
            return
        server = await self._client.get(Server, action["spec"]["server"]["name"], metadata["namespace"])
        desired = read_desired(server) if server is not None else None
        if server is None or desired is None or not is_elsewhere(action, server, self._node):
            return
        if (await self._target.look(status["instanceID"])).runs:
            _log.error("an instance runs here that is assigned elsewhere", instance=status["instanceID"])
            return
        _log.info("what a migration has left is removed", instance=status["instanceID"], action=metadata["name"])
        await remove_instance(self._actuators, status["instanceID"], ())
        await remove_volumes(self._actuators, desired)
        self._instances.gone(status["instanceID"])
        self._instances.changed()

    # The API.

    async def _live(self, action: Object) -> tuple[Object, Desired | None]:
        """Read the Server; the instance is None unless both hosts, instance and epoch are those of the action."""
        namespace = action["metadata"]["namespace"]
        body = await self._client.get(Server, action["spec"]["server"]["name"], namespace)
        if body is None or not agree(action, body):
            return body or {}, None
        return body, read_desired(body)

    async def _tell(self, action: Object, role: str, word: Word) -> None:
        key = (action["metadata"]["namespace"], action["metadata"]["name"])
        while True:
            try:
                written = await self._reporter.tell(self._actions.get(key, action), role, word)
            except NotFound:
                return
            except ApiError as error:
                latest = self._actions.get(key)
                if latest is None or latest["status"].get("phase") in ENDED:
                    return  # closed meanwhile, after which this host has no say in it
                # What has happened has happened: it is told as soon as somebody listens.
                _log.warning("not told yet", action=key[1], reason=word.reason, error=str(error))
                await asyncio.sleep(_LOOK_AGAIN)
            else:
                if written is not None and key in self._actions:
                    self._actions[key] = written
                return


def _live(action: Object) -> bool:
    return bool(action["spec"]["type"] == ActionType.LIVE_MIGRATE)
