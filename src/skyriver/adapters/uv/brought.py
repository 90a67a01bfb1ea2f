"""What is installed with Skyriver, as uv can choose it: for each package a wheel without content.

uv chooses among what an index has. The one of this machine need not have what was installed here: it came from another
one, or is older than the index remembers. As it is never fetched, its name, its version and what it needs will do.
"""

from __future__ import annotations

import shutil
import tempfile
import zipfile
from errno import ENOTEMPTY
from importlib.metadata import distribution
from pathlib import Path

from skyriver.adapters.uv.product import Product


def known_wheels(product: Product, cache: Path) -> Path:
    """The folder of these wheels, made once for an installation. It lies in uv's cache, which is in use meanwhile
    (`cache_in_use`), and like the rest of that it is given up after a power cut, for it is not synced."""
    place = cache / f"brought-{product.digest[:16]}"
    if not place.is_dir():
        new = Path(tempfile.mkdtemp(prefix=".brought-", dir=cache))
        try:
            for name, version in product.versions.items():
                _write(new, name, version)
            new.rename(place)
        except OSError as error:
            if error.errno != ENOTEMPTY:  # another process was first
                raise
        finally:
            shutil.rmtree(new, ignore_errors=True)
    return place


def _write(folder: Path, name: str, version: str) -> None:
    about = distribution(name)
    told = [f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}"]
    told += [f"Provides-Extra: {extra}" for extra in about.metadata.get_all("Provides-Extra") or ()]
    told += [f"Requires-Dist: {' '.join(text.split())}" for text in about.requires or ()]
    spelling = f"{name.replace('-', '_')}-{version}"
    with zipfile.ZipFile(folder / f"{spelling}-py3-none-any.whl", "w") as wheel:
        inside = f"{spelling}.dist-info/"
        wheel.writestr(f"{inside}METADATA", "\n".join(told) + "\n")
        wheel.writestr(f"{inside}WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{inside}RECORD", "")
