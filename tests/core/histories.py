"""A model of a home, two Kubernetes clusters and what truly happened in them: the judge of every deletion.

It knows the truth about files, worlds and objects, and judges by that and not by the guards' own code.
"""

from kraynd.core.model import ClusterKey, Json
from kraynd.core.plan import (
    ClusterMemory,
    Create,
    Declared,
    Delete,
    Inputs,
    Patch,
    asked_to_adopt,
    asked_to_create,
    asked_to_delete,
    asked_to_prune,
    plan,
    remembered,
)
from krayne.config import ClusterConfig
from tests.core.jsonpatch import apply_patch
from tests.core.rays import ME, OTHER, live, manifest

NAMES = ("a", "b", "c", "d")
WORLDS = ("world-a", "world-b")
GRACE = 60.0
Key = tuple[str, str]  # world, name


class Model:
    """A home, two Kubernetes clusters, and what truly happened in them."""

    def __init__(self, without: frozenset[str] = frozenset()) -> None:
        self.without = without
        self.clock = 1000.0
        self.world = WORLDS[0]
        self.synced = self.healthy = self.marker = self.prune = True
        self.files: dict[str, int] = {}
        self.broken: set[str] = set()
        self.objects: dict[Key, Json] = {}
        self.memory: dict[Key, ClusterMemory] = {}
        self.missing: dict[str, float] = {}
        self.serial = 0
        self.made_by_us: set[str] = set()  # uids
        self.seen_here: dict[str, str] = {}  # the world in which this run last saw the file, by a pass over it
        self.vanished_in_this_run: dict[str, float] = {}
        self.requested: set[tuple[str, str, str]] = set()  # world, name, uid the user asked to be deleted
        self.confirmed: set[str] = set()
        self.deletes: list[Delete] = []
        self.violations: set[str] = set()

    # The user, the disk and the network

    def write(self, name: str, cpus: int = 1) -> None:
        self.files[name] = cpus
        self.broken.discard(name)
        self.missing.pop(name, None)
        self.vanished_in_this_run.pop(name, None)

    def remove(self, name: str) -> None:
        if self.files.pop(name, None) is not None:
            self.broken.discard(name)
            self.missing[name] = self.vanished_in_this_run[name] = self.clock

    def spoil(self, name: str) -> None:
        if name in self.files:
            self.broken.add(name)

    def restart(self) -> None:
        self.missing, self.vanished_in_this_run, self.seen_here = {}, {}, {}

    def switch(self, world: str) -> None:
        self.world = world

    def wait(self, seconds: float) -> None:
        self.clock += seconds

    def lose_memory(self) -> None:
        self.memory = {}
        self.restart()

    def ask_delete(self, name: str, *, force: bool = False) -> None:
        uid = self._uid(name)
        self._put(name, asked_to_delete(self._memory(name), uid=uid, force=force))
        if uid:
            self.requested.add((self.world, name, uid))
        self.remove(name)

    def ask_create(self, name: str) -> None:
        self._put(name, asked_to_create(self._memory(name)))
        self.write(name)

    def confirm(self, name: str) -> None:
        self._put(name, asked_to_prune(self._memory(name), uid=self._uid(name)))
        self.confirmed.add(name)

    def adopt(self, name: str) -> None:
        self._put(name, asked_to_adopt(self._memory(name)))

    # Others in Kubernetes

    def put_object(self, name: str, made: Json) -> str:
        self.serial += 1
        uid = f"uid-{self.serial}"
        made["metadata"] |= {"uid": uid, "resourceVersion": str(self.serial)}
        self.objects[(self.world, name)] = made
        return uid

    def foreign(self, name: str) -> None:
        self.put_object(name, live(manifest(ClusterConfig(name=name), OTHER)))

    def copy_with_our_marks(self, name: str) -> None:
        self.put_object(name, live(manifest(ClusterConfig(name=name))))

    def delete_behind_our_back(self, name: str) -> None:
        self.objects.pop((self.world, name), None)

    def touch(self, name: str, replicas: int) -> None:
        if (thing := self.objects.get((self.world, name))) is not None:
            for group in thing["spec"]["workerGroupSpecs"]:
                group["replicas"] = replicas
            self._bump(thing)

    def strip_version(self, name: str) -> None:
        if (thing := self.objects.get((self.world, name))) is not None:
            thing["metadata"].pop("resourceVersion", None)

    # The daemon

    def pass_over(self, name: str, *, crash: bool = False) -> None:
        """Plan once and carry it out; a crash loses the answer of the write."""
        if self.synced and name in self.files:
            self.seen_here[name] = self.world
        given = self.inputs(name)
        step = plan(given, self.without)
        self._put(name, step.memory)
        if name in self.files:
            self.confirmed.discard(name)  # seen again; one written and removed between two passes was never there
        if isinstance(step.action, Delete):
            self._judge(name, step.action, given)
            self.objects.pop((self.world, name))
            if not crash:
                self._put(name, step.after)
        elif isinstance(step.action, Create):
            assert (self.world, name) not in self.objects
            uid = self.put_object(name, live(step.action.manifest))
            self.made_by_us.add(uid)
            if not crash and step.after is not None:
                self._put(name, remembered(step.after, self.objects[(self.world, name)], {}))
        elif isinstance(step.action, Patch):
            self._patch(name, step.action)
            if not crash:
                self._put(name, step.after)
        if crash:
            self.restart()

    def _patch(self, name: str, action: Patch) -> None:
        now = self.objects[(self.world, name)]
        uid, adopting = now["metadata"]["uid"], self._memory(name).adopting
        assert uid in self.made_by_us or adopting, "wrote to what is not ours"
        if adopting:
            self.made_by_us.add(uid)
        self.objects[(self.world, name)] = apply_patch(now, action.ops)
        self._bump(self.objects[(self.world, name)])

    def inputs(self, name: str) -> Inputs:
        key = ClusterKey("default", name)
        declared, made = None, None
        if name in self.files:
            made_of = ClusterConfig.model_validate({"name": name, "head": {"cpus": str(self.files[name])}})
            declared = Declared(key, made_of, f"{name}.yaml", "broken" if name in self.broken else "")
            made = manifest(made_of)
        known = [other for (world, other), memory in self.memory.items() if world == self.world and memory.uid]
        missed = self.missing.get(name)
        return Inputs(
            key=key,
            owner=ME,
            memory=self._memory(name),
            live=self.objects.get((self.world, name)),
            declared=declared,
            manifest=made,
            synced=self.synced,
            world=self.world,
            memory_world=self.world,
            seen_world=self.seen_here.get(name, ""),
            healthy=self.healthy,
            marker=self.marker,
            broken_files=len(self.broken),
            missing_for=None if missed is None else self.clock - missed,
            known=len(known),
            missing=sum(other not in self.files for other in known),
            prune=self.prune,
            grace=GRACE,
        )

    def _judge(self, name: str, action: Delete, given: Inputs) -> None:
        """Which of D1-D8 was not true of a deletion that was about to happen."""
        self.deletes.append(action)
        thing = self.objects[(self.world, name)]
        uid = thing["metadata"]["uid"]
        known = {other for (world, other), memory in self.memory.items() if world == self.world and memory.uid}
        gone = {other for other in known if other not in self.files}
        vanished = self.vanished_in_this_run.get(name)
        truths = {
            "D1": self.healthy and self.marker,
            "D2": vanished is not None and self.clock - vanished >= GRACE,
            "D3": not self.broken,
            "D4": gone < known and len(gone) * 2 <= len(known),
            "D5": uid in self.made_by_us and given.memory.uid == uid,
            "D6": self.seen_here.get(name) == self.world,
            "D7": self.synced,
            "D8": action.uid == uid and action.resource_version == thing["metadata"].get("resourceVersion", "?"),
        }
        if given.memory.delete_requested:
            assert (self.world, name, uid) in self.requested, "nobody asked for this object's deletion"
            needed = {"D5", "D8"} - ({"D8"} if given.memory.delete_force and action.uid == uid else set())
        elif name in self.confirmed:
            needed = {"D1", "D3", "D5", "D7", "D8"}
        else:
            assert self.prune, "prune is off"
            needed = set(truths)
        self.violations |= {one for one in needed if not truths[one]}

    def _memory(self, name: str) -> ClusterMemory:
        return self.memory.get((self.world, name), ClusterMemory())

    def _uid(self, name: str) -> str:
        thing = self.objects.get((self.world, name))
        return "" if thing is None else str(thing["metadata"]["uid"])

    def _put(self, name: str, memory: ClusterMemory | None) -> None:
        if memory is None:
            self.memory.pop((self.world, name), None)
        else:
            self.memory[(self.world, name)] = memory

    def _bump(self, thing: Json) -> None:
        self.serial += 1
        thing["metadata"]["resourceVersion"] = str(self.serial)
