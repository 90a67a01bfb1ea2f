"""The objects under power cuts."""

from __future__ import annotations

import hashlib
import random
from pathlib import Path

from powercut.part import Say, Told, need, right
from skyriver.adapters.directory.objects import DirectoryObjects


class ObjectsPart:
    """Object n has bytes that follow from n."""

    name = "objects"

    def work(self, root: Path, luck: random.Random, say: Say) -> None:
        objects = self._open(root)
        there: list[int] = []
        for n in range(60):
            if n % 20 == 19:
                objects = self._open(root)
            self._put(objects, root, n, say)
            there.append(n)
            if luck.random() < 0.3:
                self._delete(objects, there.pop(luck.randrange(len(there))), say)
            if there and luck.random() < 0.2:
                self._put(objects, root, luck.choice(there), say)  # once more what is there

    def check(self, root: Path, told: Told, say: Say) -> None:
        objects = self._open(root)
        state: dict[int, str] = {}
        for word, n in told:
            state[n] = word
        for n, word in state.items():
            digest = hashlib.sha256(_bytes(n)).hexdigest()
            if word == "put":
                need(objects.has(digest) and objects.get(digest) == _bytes(n), f"object {n} is not there")
                need(objects.open_path(digest).read_bytes() == _bytes(n), f"object {n} is not there as a file")
            elif word == "deleted":
                right(not objects.has(digest), f"object {n} was deleted and is back")
        self._shown(root)
        n = 1 + max(state, default=-1)
        self._put(objects, root, n, say)
        need(self._open(root).get(hashlib.sha256(_bytes(n)).hexdigest()) == _bytes(n), "it does not go on")

    def _shown(self, root: Path) -> None:
        place = root / "home" / "objects"
        right(not list((place / "tmp").iterdir()), "temporary files stay")
        for path in place.glob("??/*"):
            right(hashlib.sha256(path.read_bytes()).hexdigest() == path.name, f"{path.name} is shown and half written")

    def _open(self, root: Path) -> DirectoryObjects:
        return DirectoryObjects(root / "home" / "objects")

    def _put(self, objects: DirectoryObjects, root: Path, n: int, say: Say) -> None:
        say("putting", n)
        data = _bytes(n)
        match n % 3:
            case 0:
                objects.put(data)
            case 1:
                objects.put_stream((data[at : at + 5_000] for at in range(0, len(data), 5_000)), 1 << 20)
            case _:
                source = root.parent / "source"
                source.write_bytes(data)
                objects.put_file(source)
        say("put", n)

    def _delete(self, objects: DirectoryObjects, n: int, say: Say) -> None:
        say("deleting", n)
        objects.delete(hashlib.sha256(_bytes(n)).hexdigest())
        say("deleted", n)


def _bytes(n: int) -> bytes:
    return f"{n:07d}\n".encode() * (n * n * 997 % 4_000)
