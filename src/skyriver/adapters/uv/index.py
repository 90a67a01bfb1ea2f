"""From where packages come: what this machine is configured for, told to uv. Nothing of it comes from a tenant.

uv's own variables and configuration files count. Where they name no index, pip's configuration does, which uv itself
does not read: whoever can `pip install` a package here can deploy it.
"""

from __future__ import annotations

import configparser
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

UV_INDEXES = ("UV_DEFAULT_INDEX", "UV_INDEX", "UV_INDEX_URL", "UV_EXTRA_INDEX_URL", "UV_FIND_LINKS")
_CONCERNED = ("UV_", "PIP_", "SSL_CERT_", "NETRC")
_PROXIES = frozenset({"http_proxy", "https_proxy", "all_proxy", "no_proxy"})


def settings_of(environment: Mapping[str, str]) -> dict[str, str]:
    """Those variables that say from where packages come and how one gets there. They may hold credentials."""
    return {k: v for k, v in environment.items() if k.startswith(_CONCERNED) or k.lower() in _PROXIES}


def index_options(environment: Mapping[str, str]) -> list[str]:
    """Options of uv for what pip is configured for; none where uv is."""
    if any(environment.get(name) for name in UV_INDEXES) or any(path.is_file() for path in _uv_files(environment)):
        return []
    pip = _pip_settings(environment)
    options = []
    if url := pip.get("index-url"):
        options += ["--default-index", url]
    for url in pip.get("extra-index-url", "").split():
        options += ["--index", url]
    for place in pip.get("find-links", "").split():
        options += ["--find-links", place]
    for host in pip.get("trusted-host", "").split():
        options += ["--allow-insecure-host", host]
    if pip.get("no-index", "").lower() in ("1", "true", "yes", "on"):
        options.append("--no-index")
    return options


def also_from(folder: Path, environment: Mapping[str, str]) -> tuple[dict[str, str], list[str]]:
    """Variables and options of uv for the same places and the wheels in `folder`."""
    if given := environment.get("UV_FIND_LINKS"):  # an option would take its place
        return {**environment, "UV_FIND_LINKS": f"{folder.as_uri()},{given}"}, index_options(environment)
    return dict(environment), [*index_options(environment), "--find-links", folder.as_uri()]


def _uv_files(environment: Mapping[str, str]) -> Iterator[Path]:
    if named := environment.get("UV_CONFIG_FILE"):
        yield Path(named)
    yield _config_home(environment) / "uv" / "uv.toml"
    yield Path("/etc/uv/uv.toml")


def _pip_settings(environment: Mapping[str, str]) -> dict[str, str]:
    """As pip reads them: files from the system's to the one of this installation, then variables."""
    files = [Path(folder) / "pip" / "pip.conf" for folder in environment.get("XDG_CONFIG_DIRS", "/etc/xdg").split(":")]
    files += [Path("/etc/pip.conf"), Path.home() / ".pip" / "pip.conf", _config_home(environment) / "pip" / "pip.conf"]
    files.append(Path(sys.prefix) / "pip.conf")
    if named := environment.get("PIP_CONFIG_FILE"):
        files.append(Path(named))
    settings: dict[str, str] = {}
    for file in files:
        parser = configparser.RawConfigParser()
        try:
            parser.read(file, encoding="utf-8")
        except (configparser.Error, OSError, UnicodeDecodeError):
            continue  # pip would tell; uv's default index is asked then
        for section in ("global", "install"):
            if parser.has_section(section):
                settings |= {key.replace("_", "-"): value for key, value in parser.items(section)}
    variables = {k[4:].lower().replace("_", "-"): v for k, v in environment.items() if k.startswith("PIP_")}
    return settings | variables


def _config_home(environment: Mapping[str, str]) -> Path:
    return Path(environment.get("XDG_CONFIG_HOME") or Path.home() / ".config")
