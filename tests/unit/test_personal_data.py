"""The values behind personal names in records that are refused, whatever these are."""

import json
import time

import pytest

from openride_analytics.personal_data import without_personal_data
from tests.samples import full
from tests.unit.test_events import encoded


@pytest.mark.parametrize(
    "value",
    [
        '"SECRET"',
        '"a\\"SECRET"',
        '"SECRET',
        "SECRET",
        "42424242",
        '{"number": "SECRET", "country": "SECRET"}',
        '{"number": {"national": "SECRET"}, "again": "SECRET"}',
        '["SECRET", "SECRET"]',
        '[["SECRET"], "SECRET"]',
        '{"number": "SECRET"',
    ],
)
@pytest.mark.parametrize("space", ["", " ", "\n\t"])
def test_it_is_blanked_whatever_its_shape(value: str, space: str) -> None:
    record = f'{{"user_id":"kept","phone"{space}:{space}{value},"role":"?"}}'.encode()
    blanked = without_personal_data(record)
    assert b"SECRET" not in blanked
    assert b"4242" not in blanked
    assert blanked.startswith(b'{"user_id":"kept","phone"')


def test_all_other_bytes_stay_as_they_came() -> None:
    for record in (encoded(full("user.registered")), b"\xff\x00{{", b"", b'{"phones":1, "mail":2 }'):
        assert without_personal_data(record) == record


def test_a_long_record_is_blanked_quickly() -> None:
    for record in (b'"phone":"' * 100_000, b'"phone":' + b"[" * 900_000, b'"phone":"' + b"\\" * 900_000):
        began = time.perf_counter()
        without_personal_data(record)
        assert time.perf_counter() - began < 1


PERSON = {"phone": "+234803SECRET", "email": "ada@SECRET", "full_name": "Ada SECRET", "card_last4": "4242"}


@pytest.mark.parametrize(
    "record",
    [
        pytest.param(json.dumps(json.dumps(PERSON)), id="JSON twice"),
        pytest.param(json.dumps(json.dumps(json.dumps(PERSON))), id="JSON three times"),
        pytest.param(json.dumps({"payload": json.dumps(PERSON)}), id="JSON in a field"),
        pytest.param(json.dumps({"payload": json.dumps({"inner": json.dumps(PERSON)})}), id="JSON in JSON"),
        pytest.param(str(PERSON), id="Python"),
        pytest.param('{phone: "+234SECRET", cardLastFour: 4242}', id="names without quotes"),
        pytest.param(
            json.dumps({"payload": json.dumps(PERSON).replace('"', "^")}).replace("^", r"\u0022"),
            id="quotes by their number",
        ),
        pytest.param(json.dumps(PERSON | {"name": "\u0645" * 99}, ensure_ascii=False), id="Arabic"),
        pytest.param("phone=%2B234SECRET&email=ada%40SECRET&x=1", id="form"),
        pytest.param("phone: SECRET\nfull-name: Ada SECRET\n", id="YAML"),
        pytest.param("{phone=SECRET, email=SECRET, card_last4=4242}", id="Java"),
        pytest.param("{:phone => 'SECRET', :email => \"SECRET\"}", id="Ruby"),
        pytest.param('[["phone","+234SECRET"],["email","SECRET"]]', id="pairs"),
        pytest.param('{"phone"\u00a0: "SECRET"}', id="no-break space"),
        pytest.param('{"phone"\0:"SECRET"}', id="NUL"),
        pytest.param(
            '{"msisdn":"SECRET","Phone Number":"SECRET","E-Mail-Address":"SECRET"}', id="other names"
        ),
    ],
)
def test_it_is_blanked_however_it_is_written(record: str) -> None:
    for encoding in ("utf-8", "utf-16"):
        blanked = without_personal_data(record.encode(encoding))
        assert b"SECRET" not in blanked.replace(b"\0", b"")
        assert b"4242" not in blanked.replace(b"\0", b"")
        assert without_personal_data(blanked) == blanked


def test_a_refused_object_can_still_be_replayed() -> None:
    """Other texts that speak of phones are left alone where the quotes tell what is what."""
    sent = full("payment.failed", error_message="no phone: give one, e.g. email=a", amount="?")
    assert without_personal_data(encoded(sent)) == encoded(sent)
    sent["payload"] = json.dumps({"phone": "SECRET", "kept": "yes"})
    blanked = json.loads(without_personal_data(encoded(sent)))
    assert json.loads(blanked.pop("payload")) == {"phone": "-", "kept": "yes"}
    assert blanked == {name: value for name, value in sent.items() if name != "payload"}
