"""What a disk may hold after the power went: a model that is as bad as POSIX allows, and no worse.

Theory of operation
===================
A `Disk` takes the events of a trace one by one, so that it stands at any moment of it. It knows what the running system
sees (`now`), what is durable (`base`), and what is pending between the two. `leave` writes a tree as a cut at
this moment could have left it; `Fate` chooses, from a seed.

**Data.** Each sector of a file (512 bytes; or each page, 4096) is as it was at some moment since the last sync of that
file; sectors are independent. So a write may be lost, be torn, or be there while an earlier one is not. The size, too,
is that of some moment since then: ahead of the data (zeros) or behind it. A sector is whole: old or new, never mixed.
fsync and fdatasync end the choice for that file, data and size. msync does for its range, and for the size.

**Names.** A change of a folder (create, rename, unlink, mkdir, link) is pending until that folder is synced; syncing a
file does not make its name durable. Pending changes are there or not, in any combination, but: those of one name
happen in their order; a rename is atomic: the new name stands when the old one is gone, and within one folder never
both. A folder whose own name is lost is lost with all that lies in it.

`ordered` is the lenient disk, as ext4 and XFS are by default: names reach the disk in their order, and every sync takes
all names before it along.

Not modelled: damage of what was durable, sectors half written, modes and times (they are as they were last), barriers
between files that a file system gives beyond POSIX (as ext4's flush before a rename over a file).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from powercut.layer import Event, Kind

if TYPE_CHECKING:
    from powercut.fate import Fate

SECTOR, PAGE = 512, 4096


@dataclass(slots=True, eq=False)
class File:
    base: bytearray = field(default_factory=bytearray)
    now: bytearray = field(default_factory=bytearray)
    mode: int = 0o600
    pending: list[tuple[int, int, bytes | None]] = field(default_factory=list)
    """(moment, offset, data) of a write, (moment, size, None) of a change of size."""
    synced: dict[int, int] = field(default_factory=dict)
    """By sector: so many of the pending ones are durable there (msync)."""
    synced_size: int = 0

    def write(self, moment: int, offset: int, data: bytes) -> None:
        self.pending.append((moment, offset, data))
        _write(self.now, offset, data)

    def resize(self, moment: int, size: int) -> None:
        self.pending.append((moment, size, None))
        resize_content(self.now, size)

    def sync(self) -> None:
        for change in self.pending:
            change_content(self.base, change)
        self.pending.clear()
        self.synced.clear()
        self.synced_size = 0

    def sync_range(self, offset: int, length: int) -> None:
        for sector in range(offset // SECTOR, -(-(offset + length) // SECTOR)):
            self.synced[sector] = len(self.pending)
        self.synced_size = len(self.pending)


@dataclass(slots=True, eq=False)
class Link:
    target: str


@dataclass(slots=True, eq=False)
class Folder:
    base: dict[str, Node] = field(default_factory=dict)
    now: dict[str, Node] = field(default_factory=dict)
    mode: int = 0o700


Node = File | Folder | Link


@dataclass(slots=True, eq=False)
class Effect:
    """That a name means `node` from now on (None: nothing)."""

    folder: Folder
    name: str
    node: Node | None


@dataclass(slots=True, eq=False)
class Change:
    """What happens to names at once. Of a rename the first effect is the new name, the second the old one."""

    moment: int
    effects: list[Effect]


class Disk:
    """Begins as the tree `root` lies there, all of it durable. `ordered`: the lenient disk."""

    def __init__(self, root: Path, *, ordered: bool = False) -> None:
        self.moment = 0
        self._ordered = ordered
        self._nodes: dict[int, Node] = {}
        self._changes: list[Change] = []
        self._root = self._folder_at(root)

    def _folder_at(self, path: Path) -> Folder:
        folder = Folder(mode=path.stat().st_mode & 0o7777)
        self._nodes[path.stat().st_ino] = folder
        for entry in sorted(path.iterdir()):
            inode = entry.lstat().st_ino
            if entry.is_symlink():
                node: Node = Link(str(entry.readlink()))
            elif entry.is_dir():
                node = self._folder_at(entry)
            elif inode in self._nodes:
                node = self._nodes[inode]
            else:
                data = entry.read_bytes()
                node = File(bytearray(data), bytearray(data), entry.stat().st_mode & 0o7777)
            self._nodes[inode] = folder.base[entry.name] = folder.now[entry.name] = node
        return folder

    def take(self, event: Event) -> None:
        self.moment += 1
        match event.kind:
            case Kind.WRITE:
                self._file(event).write(self.moment, event.a, event.data)
            case Kind.TRUNCATE:
                self._file(event).resize(self.moment, event.a)
            case Kind.CHMOD:
                node = self._nodes[event.inode]
                assert not isinstance(node, Link)
                node.mode = event.b
            case Kind.SYNC | Kind.DATASYNC | Kind.RANGESYNC:
                self._sync(event)
            case Kind.SYNCALL:
                self._settle_names(effect for change in self._changes for effect in change.effects)
                for node in self._nodes.values():
                    if isinstance(node, File):
                        node.sync()
            case Kind.MARK | Kind.UNSEEN:
                pass
            case _:
                self._name(event)

    def _file(self, event: Event) -> File:
        node = self._nodes[event.inode]
        assert isinstance(node, File), event
        return node

    def _sync(self, event: Event) -> None:
        node = self._nodes[event.inode]
        if isinstance(node, File):
            if event.kind is Kind.RANGESYNC:
                node.sync_range(event.a, event.b)
            else:
                node.sync()
        if isinstance(node, Folder) or self._ordered:
            self._settle_names(e for c in self._changes for e in c.effects if self._ordered or e.folder is node)

    def _name(self, event: Event) -> None:
        folder, name = self._place(event.one)
        match event.kind:
            case Kind.CREATE:
                node: Node = File(mode=event.b)
            case Kind.MKDIR:
                node = Folder(mode=event.b)
            case Kind.SYMLINK:
                node = Link(event.two)
            case Kind.LINK:
                node = self._nodes[event.inode]
            case Kind.UNLINK | Kind.RMDIR:
                self._change(Effect(folder, name, None))
                return
            case Kind.RENAME:
                to, new = self._place(event.two)
                moved = folder.now[name]
                if to.now.get(new) is not moved:  # of two names of one file rename changes neither
                    self._change(Effect(to, new, moved), Effect(folder, name, None))
                return
            case _:
                raise AssertionError(event)
        self._nodes[event.inode] = node  # of one that is gone, the number may be given again
        self._change(Effect(folder, name, node))

    def _place(self, path: str) -> tuple[Folder, str]:
        *folders, name = path.split("/")
        at = self._root
        for part in folders:
            found = at.now[part]
            assert isinstance(found, Folder), path
            at = found
        return at, name

    def _change(self, *effects: Effect) -> None:
        self._changes.append(Change(self.moment, list(effects)))
        for effect in effects:
            _set(effect.folder.now, effect)

    # What is durable, and what a cut leaves

    def _settle_names(self, wanted: Iterable[Effect]) -> None:
        settled = self._needed(wanted)
        for change in self._changes:
            for effect in change.effects:
                if effect in settled:
                    _set(effect.folder.base, effect)
            change.effects = [effect for effect in change.effects if effect not in settled]
        self._changes = [change for change in self._changes if change.effects]

    def _needed(self, wanted: Iterable[Effect]) -> set[Effect]:
        """These effects, and those that must have happened before them or with them."""
        needed: set[Effect] = set()
        waiting = list(wanted)
        if not waiting:
            return needed
        before: dict[Effect, list[Effect]] = {}
        last: dict[tuple[int, str], Effect] = {}
        for change in self._changes:
            for effect in change.effects:
                place = (id(effect.folder), effect.name)
                before[effect] = [last[place]] if place in last else []
                last[place] = effect
            if len(change.effects) == 2:
                new, old = change.effects
                before[old].append(new)
                if new.folder is old.folder:
                    before[new].append(old)
        while waiting:
            effect = waiting.pop()
            if effect not in needed:
                needed.add(effect)
                waiting.extend(before[effect])
        return needed

    def leave(self, place: Path, fate: Fate) -> None:
        """Writes into the new folder `place` what the disk holds if the power goes now."""
        pending = [n.pending[0][0] for n in self._nodes.values() if isinstance(n, File) and n.pending]
        pending += [change.moment for change in self._changes]
        fate.begin(min(pending, default=self.moment), self.moment)
        chosen = self._needed(fate.names(self._changes, ordered=self._ordered))
        images: dict[int, dict[str, Node]] = {}
        for change in self._changes:
            for effect in change.effects:
                if effect in chosen:
                    image = images.setdefault(id(effect.folder), dict(effect.folder.base))
                    _set(image, effect)
        _write_tree(self._root, place, lambda folder: images.get(id(folder), folder.base), fate.data)

    def show(self, place: Path) -> None:
        """Writes into the new folder `place` what the running system sees: everything recorded, nothing lost."""
        _write_tree(self._root, place, lambda folder: folder.now, lambda file: bytes(file.now))

    def go_on(self, place: Path) -> Disk:
        """This disk under another process: what it shows lies in the new folder `place`, with all that is pending."""
        other = copy.deepcopy(self)
        other.show(place)
        other._number(other._root, place)
        return other

    def _number(self, folder: Folder, path: Path) -> None:
        self._nodes[path.stat().st_ino] = folder
        for name, node in folder.now.items():
            self._nodes[(path / name).lstat().st_ino] = node
            if isinstance(node, Folder):
                self._number(node, path / name)


def change_content(content: bytearray, change: tuple[int, int, bytes | None]) -> None:
    _, at, data = change
    if data is None:
        resize_content(content, at)
    else:
        _write(content, at, data)


def _write(content: bytearray, offset: int, data: bytes) -> None:
    if len(content) < offset:
        resize_content(content, offset)
    content[offset : offset + len(data)] = data


def resize_content(content: bytearray, size: int) -> None:
    if size < len(content):
        del content[size:]
    else:
        content.extend(bytes(size - len(content)))


def _set(entries: dict[str, Node], effect: Effect) -> None:
    if effect.node is None:
        entries.pop(effect.name, None)
    else:
        entries[effect.name] = effect.node


def _write_tree(
    root: Folder, place: Path, entries: Callable[[Folder], dict[str, Node]], content: Callable[[File], bytes]
) -> None:
    written: dict[int, Path] = {}

    def fill(folder: Folder, path: Path) -> None:
        path.mkdir(mode=0o700)
        for name, node in sorted(entries(folder).items()):
            at = path / name
            if isinstance(node, Folder):
                fill(node, at)
            elif isinstance(node, Link):
                at.symlink_to(node.target)
            elif id(node) in written:
                at.hardlink_to(written[id(node)])
            else:
                written[id(node)] = at
                at.write_bytes(content(node))
                at.chmod(node.mode)
        path.chmod(folder.mode)

    fill(root, place)
