"""In which hundredth of all keys a key is, by which a version that takes over gets its share of them: the same in
streams and over HTTP. Another version takes others; a larger share keeps those of the smaller one."""

from __future__ import annotations

from typing import Final

PLACES: Final = 100
BUCKETS: Final = 10_000
"""Keys fall into so many; a share is a number of them."""
_WORD: Final = (1 << 64) - 1


def place_of(key: int, version: int) -> int:
    """Of one key (int64, see `skyriver.data.keys.key_of`). The finaliser of SplitMix64: every bit of a key moves every
    bit of what comes out."""
    x = (key + version * 0x9E3779B97F4A7C15) & _WORD
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & _WORD
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & _WORD
    return (x ^ (x >> 31)) % BUCKETS // (BUCKETS // PLACES)


def place_between(key: int, champion: int, candidate: int) -> int:
    """The same where `candidate` takes over from `champion`: it has the keys whose place is below its percent. As in a
    stream, where the newer version has the first places, also when an older one comes back by steps."""
    place = place_of(key, max(champion, candidate))
    return place if candidate > champion else PLACES - 1 - place
