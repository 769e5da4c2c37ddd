"""How a body is taken apart into lines."""

import sys
from random import Random

from openride_analytics.http.events import _lines


def test_lines_are_those_of_the_whole_wherever_it_is_cut() -> None:
    chance = Random(7)
    kinds = [b"x" * 300, b"", b" \t", b'{"a": 1}\r', b"y" * 3_000_000]
    whole = b"\n".join(chance.choices(kinds, weights=[600, 100, 100, 200, 1], k=12_000))
    assert whole.count(kinds[-1]) > 2
    expected = [
        (number, line.rstrip(b"\r"))
        for number, line in enumerate(whole.split(b"\n"), 1)
        if line and not line.isspace()
    ]
    assert list(_lines(bytearray(whole))) == expected


def test_only_what_is_not_read_yet_is_held() -> None:
    body = bytearray(b"x" * 99 + b"\n") * 80_000
    whole = sys.getsizeof(body)
    records = _lines(body)
    for _ in range(50_000):
        next(records)
    assert sys.getsizeof(body) < whole / 2
    assert [number for number, _ in records] == list(range(50_001, 80_001))
    assert sys.getsizeof(body) < 1_000
