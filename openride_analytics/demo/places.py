"""Where the made-up platform drives: places with their real coordinates, and the corridors between them.

`platform` alone reads these tables. Distances, times and prices are those of the road at a quiet
hour, rounded; a corridor's weight is its share of the riders who live along it.
"""

from math import atan2, cos, degrees, radians, sin
from typing import Final, Literal, NamedTuple

Kind = Literal["commuter", "intercity"]


class Place(NamedTuple):
    """A part of a town as riders call it; `city` and `state` are what events carry."""

    area: str
    city: str
    state: str
    lat: float
    lon: float


class Corridor(NamedTuple):
    """One direction between two places, for one seat."""

    name: str
    origin: Place
    destination: Place
    kind: Kind
    km: float
    minutes: float
    price: int
    currency: str
    weight: float
    bearing: float


_PLACES: Final = {
    place.area: place
    for place in (
        Place("Ikeja", "Ikeja", "Lagos", 6.6018, 3.3515),
        Place("Lekki", "Lekki", "Lagos", 6.4478, 3.4723),
        Place("VI", "Victoria Island", "Lagos", 6.4281, 3.4219),
        Place("Marina", "Lagos Island", "Lagos", 6.4541, 3.3947),
        Place("Yaba", "Yaba", "Lagos", 6.5095, 3.3711),
        Place("Surulere", "Surulere", "Lagos", 6.5010, 3.3581),
        Place("Ikorodu", "Ikorodu", "Lagos", 6.6194, 3.5105),
        Place("Ajah", "Ajah", "Lagos", 6.4698, 3.5852),
        Place("Festac", "Festac", "Lagos", 6.4664, 3.2835),
        Place("Gbagada", "Gbagada", "Lagos", 6.5560, 3.3890),
        Place("Berger", "Ojodu", "Lagos", 6.6420, 3.3700),
        Place("Wuse", "Abuja", "FCT", 9.0765, 7.4767),
        Place("Garki", "Abuja", "FCT", 9.0310, 7.4890),
        Place("Central Area", "Abuja", "FCT", 9.0520, 7.4920),
        Place("Maitama", "Abuja", "FCT", 9.0880, 7.4980),
        Place("Gwarinpa", "Gwarinpa", "FCT", 9.1099, 7.4042),
        Place("Kubwa", "Kubwa", "FCT", 9.1538, 7.3220),
        Place("Lugbe", "Lugbe", "FCT", 8.9800, 7.3790),
        Place("Nyanya", "Nyanya", "FCT", 9.0190, 7.5750),
        Place("Rumuokoro", "Port Harcourt", "Rivers", 4.8680, 6.9990),
        Place("Trans Amadi", "Port Harcourt", "Rivers", 4.8080, 7.0370),
        Place("GRA", "Port Harcourt", "Rivers", 4.8230, 6.9980),
        Place("Eleme", "Eleme", "Rivers", 4.7850, 7.1300),
        Place("Bodija", "Ibadan", "Oyo", 7.4350, 3.9140),
        Place("Dugbe", "Ibadan", "Oyo", 7.3870, 3.8790),
        Place("Challenge", "Ibadan", "Oyo", 7.3400, 3.8800),
        Place("Moniya", "Ibadan", "Oyo", 7.5230, 3.9170),
        Place("Abeokuta", "Abeokuta", "Ogun", 7.1475, 3.3619),
        Place("Asero", "Abeokuta", "Ogun", 7.1680, 3.3720),
        Place("Sango Ota", "Ota", "Ogun", 6.6930, 3.2330),
        Place("Mowe", "Mowe", "Ogun", 6.8090, 3.4370),
        Place("Sabon Gari", "Kano", "Kano", 12.0100, 8.5370),
        Place("Nassarawa", "Kano", "Kano", 11.9800, 8.5500),
        Place("Barnawa", "Kaduna", "Kaduna", 10.4800, 7.4300),
        Place("Kawo", "Kaduna", "Kaduna", 10.5780, 7.4500),
        Place("Emene", "Enugu", "Enugu", 6.4730, 7.5770),
        Place("Independence Layout", "Enugu", "Enugu", 6.4390, 7.5130),
        Place("Benin", "Benin City", "Edo", 6.3350, 5.6037),
        Place("Onitsha", "Onitsha", "Anambra", 6.1667, 6.7833),
        Place("Cotonou", "Cotonou", "Littoral", 6.3654, 2.4183),
        Place("Accra", "Accra", "Greater Accra", 5.6037, -0.1870),
    )
}

# Home, work, km, minutes, price in NGN, weight.
_COMMUTES: Final = (
    ("Lekki", "VI", 9, 30, 1500, 9.0),
    ("Ajah", "VI", 22, 55, 2200, 7.5),
    ("Ajah", "Lekki", 13, 35, 1300, 3.5),
    ("Ikorodu", "Yaba", 28, 65, 2400, 5.5),
    ("Ikorodu", "Ikeja", 26, 60, 2200, 4.0),
    ("Ikeja", "VI", 26, 60, 2600, 5.5),
    ("Berger", "Marina", 27, 62, 2300, 4.0),
    ("Surulere", "Marina", 9, 30, 1100, 4.0),
    ("Festac", "Marina", 17, 45, 1700, 3.5),
    ("Yaba", "VI", 13, 38, 1500, 3.0),
    ("Gbagada", "VI", 17, 42, 1800, 3.0),
    ("Surulere", "Ikeja", 15, 38, 1400, 2.5),
    ("Kubwa", "Wuse", 24, 45, 1500, 4.5),
    ("Gwarinpa", "Central Area", 15, 32, 1300, 4.5),
    ("Lugbe", "Garki", 17, 35, 1200, 3.5),
    ("Nyanya", "Central Area", 14, 40, 1100, 2.5),
    ("Kubwa", "Maitama", 25, 45, 1700, 1.5),
    ("Rumuokoro", "Trans Amadi", 12, 38, 1200, 3.5),
    ("Rumuokoro", "GRA", 7, 22, 900, 2.0),
    ("Eleme", "Trans Amadi", 14, 35, 1300, 1.5),
    ("Moniya", "Dugbe", 18, 40, 1100, 2.5),
    ("Bodija", "Challenge", 13, 32, 900, 2.5),
    ("Challenge", "Dugbe", 7, 20, 800, 1.5),
    ("Sango Ota", "Ikeja", 20, 50, 1700, 2.5),
    ("Mowe", "Berger", 24, 45, 1600, 2.0),
    ("Asero", "Abeokuta", 5, 16, 800, 1.0),
    ("Sabon Gari", "Nassarawa", 6, 18, 800, 2.5),
    ("Kawo", "Barnawa", 14, 32, 900, 2.0),
    ("Emene", "Independence Layout", 10, 25, 900, 2.0),
)

# From, to, km, minutes, price, currency, weight.
_JOURNEYS: Final = (
    ("Berger", "Challenge", 120, 125, 7000, "NGN", 5.0),
    ("Berger", "Abeokuta", 78, 95, 6000, "NGN", 2.5),
    ("Wuse", "Kawo", 190, 165, 9500, "NGN", 3.5),
    ("Kawo", "Sabon Gari", 225, 180, 9000, "NGN", 1.5),
    ("Gbagada", "Benin", 310, 320, 18000, "NGN", 2.0),
    ("Benin", "Onitsha", 135, 140, 8500, "NGN", 1.0),
    ("Emene", "Onitsha", 105, 110, 6500, "NGN", 1.5),
    ("Emene", "Rumuokoro", 235, 260, 14000, "NGN", 1.0),
    ("Garki", "Emene", 400, 410, 25000, "NGN", 1.0),
    ("Festac", "Cotonou", 105, 190, 9000, "XOF", 0.8),
    ("VI", "Accra", 460, 560, 420, "GHS", 0.5),
)


def _bearing(origin: Place, destination: Place) -> float:
    east = (destination.lon - origin.lon) * cos(radians(origin.lat))
    return degrees(atan2(east, destination.lat - origin.lat)) % 360


def _both_ways(
    start: str, end: str, kind: Kind, km: float, minutes: float, price: int, currency: str, weight: float
) -> tuple[Corridor, Corridor]:
    def town(place: Place) -> str:
        """Between towns people name the town, within one the part of it."""
        if kind == "commuter":
            return place.area
        return {"Lagos": "Lagos", "FCT": "Abuja"}.get(place.state, place.city.removesuffix(" City"))

    def one_way(origin: Place, destination: Place) -> Corridor:
        name = f"{town(origin)}-{town(destination)}"
        bearing = _bearing(origin, destination)
        return Corridor(name, origin, destination, kind, km, minutes, price, currency, weight, bearing)

    a, b = _PLACES[start], _PLACES[end]
    return one_way(a, b), one_way(b, a)


# Each corridor out (home to work) is followed by the same one back.
CORRIDORS: Final[tuple[Corridor, ...]] = tuple(
    way
    for pair in (
        *(
            _both_ways(start, end, "commuter", km, minutes, price, "NGN", weight)
            for start, end, km, minutes, price, weight in _COMMUTES
        ),
        *(
            _both_ways(start, end, "intercity", km, minutes, price, currency, weight)
            for start, end, km, minutes, price, currency, weight in _JOURNEYS
        ),
    )
    for way in pair
)


def offset(place: Place, metres: float, towards_degrees: float) -> tuple[float, float]:
    """A point so many metres from the place, as latitude and longitude."""
    angle = radians(towards_degrees)
    lat = place.lat + metres * cos(angle) / 111_320
    lon = place.lon + metres * sin(angle) / (111_320 * cos(radians(place.lat)))
    return round(lat, 5), round(lon, 5)
