"""OpenRide Analytics: the carpooling platform's events in, true metrics out."""

__version__ = "0.1.0"
