"""Personal data in records that are refused: kept for a replay, but without it.

What is accepted has only the contract's fields (`events`), none of which is personal. A refused record is kept as it came,
JSON or not, with the values behind the names of personal fields blanked.
"""

import re
from typing import Any, Final

import msgspec

_NAMES: Final = (
    *("phone", "phone_?number", "msisdn", "e_?mail", "e_?mail_?address", "full_?name"),
    *("card_?last_?4", "card_?last_?four"),
)
_TEXT: Final = rb'"(?:[^"\\]|\\.)*+"?'
# As it stands within a text: each quote has the same backslashes before it, and may be written by its number.
_QUOTE_WITHIN: Final = rb'\\++(?:"|u0022)'
_TEXT_WITHIN: Final = rb"(?P<quote>" + _QUOTE_WITHIN + rb")(?:(?!(?P=quote)).)*+(?:(?P=quote))?"


def _value(depth: int) -> bytes:
    """A pattern for a JSON value, cut off or not. What is nested deeper takes the rest of the record with it."""
    inner = rb"[^][{}\"]|" + _TEXT + rb"|[\[{].*+"
    for _ in range(depth):
        inner = rb"[^][{}\"]|" + _TEXT + rb"|[\[{](?:" + inner + rb")*+[]}]?"
    return _TEXT + rb"|[\[{](?:" + inner + rb")*+[]}]?|[^,}\r\n]+"


def _name(name: str) -> str:
    """A pattern for a field's name, in letters of either case and in JSON's escapes of them."""
    return "".join(
        rf"(?:{letter}|\\u00(?:{ord(letter):02x}|{ord(letter.upper()):02x}))" if letter.isalnum() else letter
        for letter in name.replace("_", "[_ -]")
    )


_ANY_NAME: Final = "|".join(map(_name, _NAMES)).encode()
# The first character is looked at before the names are: most quotes begin something else.
_FIRST: Final = rb"(?=[pmefc\\])"

_IN_JSON: Final = re.compile(
    rb'("' + _FIRST + rb"(?:" + _ANY_NAME + rb')"\s*+:\s*+)(?:' + _value(depth=4) + rb")",
    re.IGNORECASE | re.DOTALL,
)
_IN_TEXT_OF_JSON: Final = re.compile(
    rb"(?<!\\)("
    + _QUOTE_WITHIN
    + _FIRST
    + rb"(?:"
    + _ANY_NAME
    + rb")"
    + _QUOTE_WITHIN
    + rb"\s*+:\s*+)(?:"
    + _TEXT_WITHIN
    + rb"|[^,}\\\r\n]+)",
    re.IGNORECASE | re.DOTALL,
)
# Where it is no JSON object: with other quotes or none, and with what a form, YAML or a language's own notation has between.
_ELSEWHERE: Final = re.compile(
    rb"""(?<![A-Za-z0-9_])((?:"""
    + _ANY_NAME
    + rb""")["']?[\s\0]*+(?:\xc2?\xa0[\s\0]*+)*+(?:=>|[:=,])[\s\0]*+)"""
    rb"""(?:'[^'\r\n]*+'?|""" + _value(depth=4).removesuffix(rb"[^,}\r\n]+") + rb"""[^,}&;\]\r\n]+)""",
    re.IGNORECASE | re.DOTALL,
)
# Where none of these is, in small letters, there is nothing of it: names may be escaped, or in UTF-16.
_HINTS: Final = (b"phone", b"msisdn", b"mail", b"full", b"card", rb"\u00", b"\0")
_BLANK: Final = rb'\1"-"'
_object: Final = msgspec.json.Decoder(dict[str, Any])


def without_personal_data(record: bytes) -> bytes:
    """The record's bytes as they came, with the values of personal fields blanked, JSON or not."""
    small = record.lower()
    if not any(hint in small for hint in _HINTS):
        return record
    blanked = _IN_TEXT_OF_JSON.sub(rb'\1\\"-\\"', _IN_JSON.sub(_BLANK, record))
    if _is_object(record):
        return blanked
    blanked = _ELSEWHERE.sub(_BLANK, blanked)
    if b"\0" in record:  # UTF-16, perhaps, which is refused whatever it says
        readable = without_personal_data(record.replace(b"\0", b""))
        return blanked if readable == blanked.replace(b"\0", b"") else readable
    return blanked


def _is_object(record: bytes) -> bool:
    try:
        _object.decode(record)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    return True
