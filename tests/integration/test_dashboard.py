"""The dashboard and the API's page in a real Chromium, on a service of its own with twelve days of the made-up platform."""

import os
import re
import shutil
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from urllib.parse import urlencode
from uuid import uuid4
from zoneinfo import ZoneInfo

import msgspec
import pytest
from playwright.sync_api import Browser, Locator, Page, Route, expect, sync_playwright

from openride_analytics.contract import LOCATION_EVENT
from openride_analytics.demo.platform import Platform
from tests.servers.axe import axe_script
from tests.servers.process import ServerUnavailableError, do_without

from .running import ServiceProcess

CHROMIUM = (
    os.environ.get("OPENRIDE_TEST_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
)
# No project can install a browser by its package manager, so this skips with CI=true, too.
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on the PATH (OPENRIDE_TEST_CHROMIUM)")

DAYS = 12
LOCATIONS_KEPT = 20
WAIT_MS = 60_000
QUIET = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
TABS = ("overview", "payments", "growth", "places", "supply", "live")
RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "best-practice"]


@pytest.fixture(scope="module")
def service() -> Iterator[ServiceProcess]:
    """A service with embedded stores; nothing comes in but what a test sends."""
    made = Platform(seed=5, now=datetime.now(UTC), days=DAYS).history()
    events = [
        event
        for number, event in enumerate(made)
        if event["event_type"] != LOCATION_EVENT or not number % LOCATIONS_KEPT
    ]
    with ServiceProcess({"cache": {"fresh_seconds": 0.0}}) as running:
        running.wait_until_ready()
        body = b"\n".join(msgspec.json.encode(event) for event in events)
        receipt = running.post_events(body, content_type="application/x-ndjson")
        assert receipt["accepted"] == len(events)
        yield running


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        yield started
        started.close()


class Screen:
    """A page of the dashboard, and what went wrong in it."""

    def __init__(self, page: Page, service: ServiceProcess) -> None:
        self.page = page
        self.service = service
        self.said: list[str] = []
        self.elsewhere: list[str] = []
        page.set_default_timeout(WAIT_MS)
        page.on("console", lambda message: self.said.append(message.text) if message.type != "log" else None)
        page.on("pageerror", lambda error: self.said.append(str(error)))
        page.on("request", self._asked)

    def _asked(self, request: Any) -> None:
        if not request.url.startswith(self.service.url):
            self.elsewhere.append(request.url)

    def open(self, query: str = "") -> "Screen":
        """The view of an address, when all of it is there."""
        self.page.goto(f"{self.service.url}/{query}")
        return self.settled()

    def settled(self) -> "Screen":
        expect(self.page.locator(".grid")).to_be_visible(timeout=WAIT_MS)
        expect(self.page.locator("[aria-busy]")).to_have_count(0, timeout=WAIT_MS)
        return self

    def find(self, selector: str, **options: Any) -> Locator:
        return self.page.locator(selector, **options)

    def panel(self, title: str) -> Locator:
        return self.page.get_by_role("region", name=title, exact=True).first

    def choose(self, name: str, value: str) -> None:
        """One of the filters."""
        self.find(f"#filters [name={name}]").select_option(value)
        self.settled()


@contextmanager
def screen(browser: Browser, service: ServiceProcess, **context: Any) -> Iterator[Screen]:
    opened = browser.new_context(locale="en-GB", **{"viewport": {"width": 1440, "height": 900}, **context})
    try:
        shown = Screen(opened.new_page(), service)
        yield shown
        assert shown.elsewhere == []
    finally:
        opened.close()


@pytest.fixture
def dashboard(browser: Browser, service: ServiceProcess) -> Iterator[Screen]:
    """A page in which nothing may go wrong."""
    with screen(browser, service) as shown:
        yield shown
        assert shown.said == []


def whole_days() -> str:
    """A period that is over, so its numbers stay as they are."""
    today = datetime.now(UTC).timestamp()
    first, last = (time.strftime("%Y-%m-%d", time.gmtime(today - days * 86_400)) for days in (9, 3))
    return f"start_date={first}&end_date={last}"


def numbers(text: str) -> str:
    return re.sub(r"[^0-9.]", "", text)


@pytest.mark.parametrize("tab", ["overview", "payments", "growth", "supply"])
def test_every_key_number_is_the_apis(dashboard: Screen, service: ServiceProcess, tab: str) -> None:
    asked = dict(part.split("=") for part in whole_days().split("&"))
    dashboard.open(f"?tab={tab}&{whole_days()}")
    shown = dashboard.find(".tiles data[data-metric]").evaluate_all(
        "all => all.map(item => [item.dataset.metric, item.value, item.textContent])"
    )
    assert len(shown) >= 8
    for metric, value, text in shown:
        endpoint, field, *currency = metric.split(".")
        summary = service.get_json(f"/v1/metrics/{endpoint}", **asked)["summary"]
        expected = summary[field][currency[0]] if currency else summary[field]
        # The engine adds up means in any order of its threads: their last digit is not the same each time.
        assert abs(Decimal(value) - Decimal(str(expected))) <= Decimal("1e-12"), metric
        # Rates and durations are written in other units: their values are held above.
        if currency or (isinstance(expected, int) and not field.endswith("_ms")):
            assert abs(Decimal(numbers(text)) - Decimal(value)) <= Decimal("0.5"), (metric, text)


def test_a_number_of_one_day_says_which_day_it_is_held_against(
    dashboard: Screen, service: ServiceProcess
) -> None:
    asked = dict(part.split("=") for part in whole_days().split("&"))
    before = service.get_json("/v1/metrics/users", compare="previous", **asked)["previous"]
    end = datetime.fromisoformat(before["period"]["end"]) - timedelta(milliseconds=1)
    day = f"{end.astimezone(ZoneInfo('Africa/Lagos')):%a %-d %b}"
    dashboard.open(f"?tab=growth&{whole_days()}")
    tile = dashboard.find(".tile", has=dashboard.find("[data-metric='users.dau']"))
    expect(tile).to_contain_text(f"before {before['summary']['dau']}, {day}")
    assert "until" not in tile.inner_text()


def test_the_chosen_tab_is_in_sight_on_a_phone(browser: Browser, service: ServiceProcess) -> None:
    with screen(browser, service, viewport={"width": 390, "height": 844}) as shown:
        shown.page.goto(f"{service.url}/?tab=live")
        expect(shown.page.get_by_role("link", name="Live")).to_be_in_viewport(ratio=0.9, timeout=WAIT_MS)


def test_on_a_tablet_amounts_are_whole_and_all_tabs_in_sight(
    browser: Browser, service: ServiceProcess
) -> None:
    with screen(browser, service, viewport={"width": 820, "height": 1180}) as shown:
        shown.open("?tab=payments")
        for view in ("Overview", "Live"):
            expect(shown.page.get_by_role("link", name=view)).to_be_in_viewport(ratio=0.99)
        clipped = shown.find("nav, .tiles .value").evaluate_all(
            "all => all.filter(item => item.scrollWidth > item.clientWidth).map(item => item.textContent)"
        )
        assert clipped == []


def test_on_a_phone_amounts_are_whole(browser: Browser, service: ServiceProcess) -> None:
    with screen(browser, service, viewport={"width": 390, "height": 844}) as shown:
        shown.open("?tab=payments")
        value = shown.find(".tiles [data-metric='payments.revenue.NGN']")
        value.evaluate("item => item.lastChild.textContent = '135,167,595'")
        assert (
            shown.find(".tiles .value").evaluate_all(
                "all => all.filter(item => item.scrollWidth > item.clientWidth).map(item => item.textContent)"
            )
            == []
        )


def test_no_table_is_cut_and_no_map_lies_on_one_however_wide_the_window_is(dashboard: Screen) -> None:
    for tab in ("overview", "growth", "places", "supply"):
        dashboard.open(f"?tab={tab}&{whole_days()}")
        for width in (1440, 1300, 1200, 1081, 820, 721, 390):
            dashboard.page.set_viewport_size({"width": width, "height": 900})
            cut = dashboard.find(".scroll:visible").evaluate_all(
                "all => all.filter(item => item.scrollWidth > item.clientWidth).map(item => item.ariaLabel)"
            )
            assert cut == [], (tab, width)
    dashboard.page.set_viewport_size({"width": 1300, "height": 900})
    dashboard.open(f"?{whole_days()}")
    dashboard.page.evaluate("scrollTo(0, document.body.scrollHeight)")
    places = dashboard.panel("Map: bookings").bounding_box(), dashboard.panel("Top routes").bounding_box()
    above, below = (box or pytest.fail("a panel is not there") for box in places)
    assert above["y"] + above["height"] < below["y"]


def test_amounts_of_two_currencies_stand_beside_each_other(
    dashboard: Screen, service: ServiceProcess
) -> None:
    query = "?tab=payments&period=7d"
    dashboard.open(query)
    shown = dashboard.find(".tiles data[data-metric^='payments.revenue.']")
    assert shown.count() >= 2
    assert dashboard.panel("Revenue").locator(".plot").count() == shown.count()


def test_tables_and_the_funnel_are_the_apis(dashboard: Screen, service: ServiceProcess) -> None:
    asked = dict(part.split("=") for part in whole_days().split("&"))
    dashboard.open(f"?{whole_days()}")
    routes = service.get_json("/v1/metrics/routes", limit="8", **asked)["popular"]
    rows = dashboard.find("[aria-label='Top routes'] tbody tr").all_inner_texts()
    assert [numbers(row.split("\t")[1]) for row in rows] == [str(route["bookings"]) for route in routes]
    steps = service.get_json("/v1/analytics/funnel", **asked)["steps"]
    assert dashboard.find(".funnel data").evaluate_all("all => all.map(item => Number(item.value))") == [
        step["users"] for step in steps
    ]
    drivers = service.get_json("/v1/metrics/drivers", limit="8", **asked)["top"]
    assert dashboard.find("[aria-label='Top drivers'] code").all_inner_texts() == [
        driver["driver_id"][:8] for driver in drivers
    ]
    places = service.get_json("/v1/analytics/geographic", **asked)["places"][:9]
    rows = dashboard.find("[aria-label='Places'] tbody tr").all_inner_texts()
    assert [numbers(row.split("\t")[1]) for row in rows] == [str(place["value"]) for place in places]


def test_the_first_numbers_are_asked_for_first_and_the_maps_names_when_it_is_seen(
    browser: Browser, service: ServiceProcess
) -> None:
    held: list[Route] = []

    def hold(route: Route) -> None:  # Playwright takes no method of a list
        held.append(route)

    with screen(browser, service) as shown:
        asked: list[str] = []
        shown.page.on("request", lambda request: asked.append(request.url.removeprefix(service.url)))
        shown.page.route("**/v1/metrics/bookings*", hold)
        shown.page.goto(f"{service.url}/?{whole_days()}")
        expect(shown.find("[data-metric='trips.completed']")).to_be_visible(timeout=WAIT_MS)
        questions = [path.partition("?")[0] for path in asked if path.startswith("/v1/")]
        assert questions[:2] == ["/v1/metrics/bookings", "/v1/metrics/trips"]
        assert set(questions[2:]) <= {"/v1/metrics/realtime/stream"}
        held[0].continue_()
        shown.settled()
        assert len([path for path in asked if "level=h3" in path]) == 1
        shown.panel("Map: bookings").scroll_into_view_if_needed()
        expect(shown.find(".mapframe .place").first).to_be_visible(timeout=WAIT_MS)
        again = Counter(path for path in asked if path.startswith("/v1/"))
        assert set(again.values()) == {1}


def test_a_view_is_its_address(dashboard: Screen, browser: Browser, service: ServiceProcess) -> None:
    dashboard.open()
    dashboard.choose("period", "7d")
    dashboard.choose("timezone", "Europe/Berlin")
    dashboard.choose("state", "Lagos")
    dashboard.choose("city", "Ikeja")
    dashboard.choose("currency", "NGN")
    dashboard.page.get_by_role("link", name="Payments").click()
    dashboard.settled()
    address = dashboard.page.url
    assert address.endswith(
        "/?tab=payments&period=7d&timezone=Europe%2FBerlin&state=Lagos&city=Ikeja&currency=NGN"
    )
    value = dashboard.find("[data-metric='payments.initiated']").inner_text()
    with screen(browser, service) as other:
        other.open(address.rpartition("/")[2])
        assert other.find("[data-metric='payments.initiated']").inner_text() == value
        assert other.find("[name=city]").input_value() == "Ikeja"
        assert "Europe/Berlin" in other.find("#span").inner_text()
    dashboard.page.go_back()
    expect(dashboard.page.get_by_role("heading", level=1)).to_have_text("Overview")
    dashboard.page.go_back()
    expect(dashboard.find("[name=currency]")).to_have_value("")
    dashboard.page.go_forward()
    expect(dashboard.find("[name=currency]")).to_have_value("NGN")
    dashboard.settled()


def test_a_bucket_that_is_not_over_is_dashed_or_hatched(dashboard: Screen) -> None:
    dashboard.open("?tab=payments&period=7d")
    assert dashboard.panel("Outcomes").locator(".line.open").count() == 3
    assert dashboard.panel("Revenue").locator("rect[fill^='url(#hatch']").count() <= 3
    dashboard.open(f"?tab=payments&{whole_days()}")
    assert dashboard.panel("Outcomes").locator(".line:not(.open)").count() == 3
    assert dashboard.find(".line.open, rect[fill^='url(#hatch']").count() == 0


def test_an_empty_period_says_so_and_shows_dashes(dashboard: Screen) -> None:
    dashboard.open("?start_date=2011-03-01&end_date=2011-03-07")
    assert dashboard.find("[data-metric='bookings.created']").inner_text() == "0"
    assert dashboard.find("[data-metric='bookings.conversion_rate']").inner_text() == "–"
    expect(dashboard.panel("Bookings").locator(".empty")).to_contain_text("Choose a longer one")
    assert dashboard.find(".empty").count() >= 4


def test_a_bad_address_is_explained_and_can_be_left(browser: Browser, service: ServiceProcess) -> None:
    with screen(browser, service) as shown:
        shown.open("?timezone=Mars/Phobos")
        alert = shown.page.get_by_role("alert")
        expect(alert).to_contain_text("timezone There is no such IANA time zone.")
        alert.get_by_role("button", name="Reset the filters").click()
        shown.settled()
        expect(alert).to_be_empty()
        assert shown.page.url == f"{service.url}/"


def test_a_store_that_is_away_is_told_and_tried_again(browser: Browser, service: ServiceProcess) -> None:
    def away(route: Route) -> None:
        problem = '{"title": "Service unavailable", "status": 503, "detail": "The data store does not answer just now."}'
        route.fulfill(status=503, body=problem, headers={"Retry-After": "1"})

    with screen(browser, service) as shown:
        shown.page.route("**/v1/metrics/bookings*", away)
        shown.open()
        expect(shown.page.get_by_role("alert")).to_contain_text("The data store does not answer")
        assert shown.find("[data-metric='trips.completed']").count() == 1
        shown.page.unroute("**/v1/metrics/bookings*")
        expect(shown.find("[data-metric='bookings.created']")).to_be_visible(timeout=WAIT_MS)
        expect(shown.page.get_by_role("alert")).to_be_empty(timeout=WAIT_MS)


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (403, "Not allowed with this key This key does not have the scope “read”."),
        (429, "Too many requests The page tries again by itself."),
        (500, "The service made a mistake It answered with status 500."),
        (504, "The query took too long Choose a shorter period or larger buckets."),
    ],
)
def test_what_is_refused_is_told_in_words_beside_what_is_there(
    browser: Browser, service: ServiceProcess, status: int, said: str
) -> None:
    details = {403: "This key does not have the scope “read”."}
    problem = msgspec.json.encode({"title": "Refused", "status": status, "detail": details.get(status, "")})
    with screen(browser, service) as shown:
        shown.page.route(
            "**/v1/metrics/bookings*",
            lambda route: route.fulfill(status=status, body=problem, headers={"Retry-After": "60"}),
        )
        shown.open()
        expect(shown.page.get_by_role("alert")).to_contain_text(said, timeout=WAIT_MS)
        assert shown.find("[data-metric='bookings.created']").count() == 0
        assert shown.find("[data-metric='trips.completed']").count() == 1


def test_an_answer_that_does_not_come_is_given_up(browser: Browser, service: ServiceProcess) -> None:
    with screen(browser, service) as shown:
        # The page waits for half a minute.
        shown.page.add_init_script(
            "const wait = AbortSignal.timeout.bind(AbortSignal); AbortSignal.timeout = (ms) => wait(ms / 30)"
        )
        shown.page.route("**/v1/metrics/bookings*", lambda route: None)
        shown.page.goto(f"{service.url}/?{whole_days()}")
        expect(shown.page.get_by_role("alert")).to_contain_text("No answer in time", timeout=WAIT_MS)
        shown.page.unroute("**/v1/metrics/bookings*")


def test_a_service_that_cannot_be_reached_is_told_and_found_again(
    browser: Browser, service: ServiceProcess
) -> None:
    with screen(browser, service) as shown:
        shown.open("?tab=growth")
        expect(shown.find("#feed")).to_have_text("Live", timeout=WAIT_MS)
        shown.page.context.set_offline(True)
        shown.find("[name=period]").select_option("7d")
        expect(shown.page.get_by_role("alert")).to_contain_text(
            "The service cannot be reached", timeout=WAIT_MS
        )
        shown.page.context.set_offline(False)
        expect(shown.page.get_by_role("alert")).to_be_empty(timeout=WAIT_MS)


def test_a_key_is_asked_for_once_and_kept_in_the_tab(browser: Browser, service: ServiceProcess) -> None:
    def guarded(route: Route) -> None:
        if route.request.headers.get("authorization") == "Bearer right":
            route.continue_()
        else:
            route.fulfill(
                status=401, body='{"title": "Unauthorized", "status": 401, "detail": "A key is needed."}'
            )

    with screen(browser, service) as shown:
        shown.page.route("**/v1/**", guarded)
        shown.page.goto(service.url)
        dialog = shown.page.get_by_role("dialog")
        expect(dialog).to_be_visible(timeout=WAIT_MS)
        shown.page.keyboard.type("wrong")
        shown.page.keyboard.press("Enter")
        expect(dialog).to_contain_text("did not accept that key", timeout=WAIT_MS)
        dialog.get_by_label("Key").fill("right")
        shown.page.keyboard.press("Enter")
        expect(dialog).to_be_hidden(timeout=WAIT_MS)
        shown.settled()
        expect(shown.find("#feed")).to_have_text("Live", timeout=WAIT_MS)
        shown.open("?tab=growth")
        assert not dialog.is_visible()


def test_live_counters_follow_the_events(dashboard: Screen, service: ServiceProcess) -> None:
    dashboard.open("?tab=live")
    counter = dashboard.find("[data-live=bookings_created]")
    expect(counter).to_be_visible(timeout=WAIT_MS)
    before = service.get_json("/v1/metrics/realtime")["summary"]["bookings_created"]
    ids = {name: str(uuid4()) for name in ("event_id", "booking_id", "rider_id", "driver_id", "route_id")}
    now_ms = int(time.time() * 1000)
    booking = {
        **ids,
        "event_type": "booking.created",
        "event_timestamp": now_ms,
        "seats_booked": 1,
        "total_price": "1500.00",
        "scheduled_departure": now_ms,
    }
    service.post_events(msgspec.json.encode(booking), content_type="application/x-ndjson")
    expect(counter).to_have_text(str(before + 1), timeout=WAIT_MS)


def test_the_keyboard_reaches_everything(dashboard: Screen) -> None:
    dashboard.open(f"?{whole_days()}")
    page = dashboard.page
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the numbers")).to_be_focused()
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Overview")).to_be_focused()
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    dashboard.settled()
    expect(page.get_by_role("heading", level=1)).to_have_text("Payments")
    expect(page.get_by_role("link", name="Payments")).to_be_focused()
    chart = dashboard.panel("Outcomes").get_by_role("slider")
    chart.focus()
    page.keyboard.press("Home")
    first = chart.get_attribute("aria-valuetext") or ""
    page.keyboard.press("ArrowRight")
    assert chart.get_attribute("aria-valuenow") == "2"
    assert "Succeeded" in first
    assert chart.get_attribute("aria-valuetext") != first
    dashboard.panel("Outcomes").get_by_text("Numbers").press("Enter")
    expect(dashboard.find("[aria-label='Outcomes of payments, as a table'] tbody tr")).to_have_count(7)


def test_the_theme_is_the_systems_until_one_is_chosen(browser: Browser, service: ServiceProcess) -> None:
    paper = "getComputedStyle(document.documentElement).backgroundColor"
    with screen(browser, service, color_scheme="dark") as shown:
        shown.open("?tab=live")
        dark = shown.page.evaluate(paper)
        shown.find("#theme").click()
        light = shown.page.evaluate(paper)
        assert light != dark
        shown.open("?tab=live")
        assert shown.page.evaluate(paper) == light


def test_the_api_page_has_all_operations_and_finds_them(browser: Browser, service: ServiceProcess) -> None:
    paths = service.get_json("/schema")["paths"]
    with screen(browser, service) as shown:
        shown.page.goto(f"{service.url}/docs")
        operations = shown.find(".operation")
        expect(operations).to_have_count(sum(map(len, paths.values())), timeout=WAIT_MS)
        expect(shown.find("#state")).not_to_contain_text("could not be read")
        shown.page.get_by_label("Find").fill("dead-letters REPLAY")
        expect(operations.filter(visible=True)).to_have_count(1)
        operations.filter(visible=True).locator("summary").first.click()
        expect(shown.find("#replay_dead_letters textarea")).to_be_visible()
        assert shown.said == []


def test_the_api_page_sends_what_its_forms_say(browser: Browser, service: ServiceProcess) -> None:
    with screen(browser, service) as shown:
        shown.page.goto(f"{service.url}/docs#metrics_bookings")
        asked = shown.find("#metrics_bookings")
        asked.locator("[name=granularity]").select_option("week")
        asked.locator("[name=end_date]").fill("2020-02-09")
        asked.locator("[name=start_date]").fill("2020-02-03")
        asked.get_by_role("button", name="Send").click()
        expect(asked.locator(".result")).to_contain_text("200 OK", timeout=WAIT_MS)
        question = {"start_date": "2020-02-03", "end_date": "2020-02-09", "granularity": "week"}
        address = f"{service.url}/v1/metrics/bookings?{urlencode(question)}"
        expect(asked.locator(".curl")).to_have_text(f"curl '{address}'")
        answer = msgspec.json.decode(asked.locator(".result pre").last.inner_text())
        assert answer["period"] == service.get_json("/v1/metrics/bookings", **question)["period"]
        assert len(answer["series"]) == 1

        shown.page.evaluate("location.hash = 'post_events'")
        sent = shown.find("#post_events")
        sent.locator("textarea").fill('{"event_type": "no.such_type"}')
        sent.get_by_role("button", name="Send").click()
        expect(sent.locator(".result")).to_contain_text("202 Accepted", timeout=WAIT_MS)
        expect(sent.locator(".result")).to_contain_text('"reason": "unknown_event_type"')
        assert shown.said == []


@pytest.mark.parametrize(("width", "scheme"), [(1440, "light"), (390, "dark")])
def test_nothing_stands_in_the_way_of_anybody(
    browser: Browser, service: ServiceProcess, width: int, scheme: str
) -> None:
    try:
        axe = axe_script()
    except ServerUnavailableError as reason:
        do_without("axe-core", reason)
    with screen(
        browser,
        service,
        color_scheme=scheme,
        viewport={"width": width, "height": 844},
        reduced_motion="reduce",
    ) as shown:

        def stands_in_nobodys_way() -> None:
            shown.page.evaluate(axe)
            found = shown.page.evaluate(
                "rules => axe.run(document, {runOnly: rules, resultTypes: ['violations']}).then(found => "
                "found.violations.map(one => [one.id, one.nodes.map(node => node.html).slice(0, 3)]))",
                RULES,
            )
            assert found == [], shown.page.url
            assert shown.page.evaluate("document.documentElement.scrollWidth") <= width, shown.page.url

        for tab in TABS:
            shown.open(f"?tab={tab}&{whole_days()}")
            stands_in_nobodys_way()
        shown.page.goto(f"{service.url}/docs#create_schedule")
        expect(shown.find("#create_schedule textarea")).to_be_visible(timeout=WAIT_MS)
        shown.find("#create_schedule summary").last.click()
        stands_in_nobodys_way()
        assert shown.said == []
