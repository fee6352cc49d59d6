"""The airports of airportsdata (MIT): 28,000 real rows, the input of two examples."""

import airportsdata
from airportsdata import Airport

from headway_worker import PermanentError

AIRPORTS_MAX = 100_000
"""More than there are: the upper bound of a payload's `limit`."""


def all_airports() -> list[Airport]:
    """Every airport, by ICAO code, so that row n is the same in every run. Takes about 0.2 s."""
    return [airport for _, airport in sorted(airportsdata.load("ICAO").items())]


def airports_of(country: str) -> list[Airport]:
    """The airports of one country, by ICAO code. PermanentError if there is no such country."""
    airports = [airport for airport in all_airports() if airport["country"] == country]
    if not airports:
        raise PermanentError(
            f"no airports in country {country!r}; expected an ISO 3166-1 code such as FR or US"
        )
    return airports
