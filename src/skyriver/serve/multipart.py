"""`multipart/form-data` as browsers and curl send it: named parts, texts or files; pure."""

from __future__ import annotations

import re
from dataclasses import dataclass

from skyriver.core.errors import InvalidInput

FORM = b"multipart/form-data"
_MOST_PARTS = 1000
_HEADERS = 4096
"""Bytes of a part's headers."""
_BOUNDARY = re.compile(rb'boundary=(?:"([^"]{1,70})"|([^\s;"]{1,70}))', re.IGNORECASE)
_NAME = re.compile(rb';\s*name="([^"]*)"', re.IGNORECASE)
_FILE = re.compile(rb";\s*filename\*?=", re.IGNORECASE)


class BadForm(InvalidInput):
    """A body that is no form, or a form that is not whole."""

    default_code = "BAD_FORM"
    default_action = "Let a library write the form, or curl with -F."
    http_status = 400


@dataclass(frozen=True, slots=True)
class Part:
    content: bytes
    is_file: bool


def parts_of(body: bytes, content_type: bytes) -> dict[str, Part]:
    """The parts by name. Raises BadForm."""
    found = _BOUNDARY.search(content_type)
    if found is None:
        raise BadForm("The content-type multipart/form-data has no boundary.")
    mark = b"--" + (found.group(1) or found.group(2))
    if not body.startswith((mark + b"\r\n", mark + b"--")):
        raise BadForm("The form does not begin with its boundary.")
    pieces = (b"\r\n" + body).split(b"\r\n" + mark, _MOST_PARTS + 1)[1:]
    if len(pieces) > _MOST_PARTS:
        raise BadForm(f"A form has at most {_MOST_PARTS} parts.")
    if pieces[-1][:2] != b"--":
        raise BadForm("The form ends in the middle of a part.")
    parts: dict[str, Part] = {}
    for piece in pieces[:-1]:
        name, part = _part(piece)
        if name in parts:
            raise BadForm(f"The part {name[:80]!r} is given twice.")
        parts[name] = part
    return parts


def _part(piece: bytes) -> tuple[str, Part]:
    """What stands between two boundaries: the end of a line, headers, an empty line, content."""
    head, separator, content = piece.partition(b"\r\n\r\n")
    if not separator or not piece.startswith(b"\r\n") or len(head) > _HEADERS:
        raise BadForm("A part of the form has no end of its headers.")
    for line in head.split(b"\r\n"):
        kind, _, value = line.partition(b":")
        if kind.strip().lower() == b"content-disposition":
            named = _NAME.search(value)
            if named is not None:
                try:
                    return named.group(1).decode(), Part(content, _FILE.search(value) is not None)
                except UnicodeDecodeError as error:
                    raise BadForm("The name of a part is not UTF-8.") from error
    raise BadForm("A part of the form has no name.")
