"""The kinds of values a setting can have, each as strict as its description says."""

import re
from datetime import timedelta
from typing import Annotated, Final, NamedTuple
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, SecretStr

DECIMAL: Final = re.compile(r"[0-9]{1,12}(\.[0-9]{1,9})?")
PORT_MAX: Final = 65_535


class Address(NamedTuple):
    """Where to listen. Port 0 means any free one."""

    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


def _seconds(value: object) -> object:
    return timedelta(seconds=_number(value)) if isinstance(value, str) else value


def _number(value: object) -> float:
    # float() alone would take "inf", "1e9", " 5 " and "1_000".
    if not isinstance(value, str) or not DECIMAL.fullmatch(value):
        raise ValueError("not a decimal")
    return float(value)


def _whole(value: object) -> object:
    if isinstance(value, str) and not value.isdecimal():
        raise ValueError("not a whole number")
    return value


def _flag(value: object) -> bool:
    match value:
        case "true" | True:
            return True
        case "false" | False:
            return False
        case _:
            raise ValueError("neither true nor false")


def _address(value: object) -> object:
    if not isinstance(value, str):
        return value
    host, separator, port = value.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not (separator and host and port.isdecimal() and int(port) <= PORT_MAX):
        raise ValueError("not HOST:PORT")
    return Address(host, int(port))


def _url(value: SecretStr, schemes: tuple[str, ...]) -> SecretStr:
    parts = urlsplit(value.get_secret_value())
    if parts.scheme not in schemes or not parts.hostname:
        raise ValueError("not such a URL")
    _ = parts.port  # raises ValueError if it is no port
    # UnicodeError, a ValueError, if no name server could be asked for it, also once normalised.
    parts.hostname.encode("idna").decode("idna").encode("idna")
    if "@" not in parts.netloc and "@" in parts.path + parts.query + parts.fragment:
        raise ValueError("a / ? or # in the password must be written as %XX")
    return value


Seconds = Annotated[timedelta, BeforeValidator(_seconds)]
Number = Annotated[float, BeforeValidator(_number)]
Whole = Annotated[int, BeforeValidator(_whole)]
Flag = Annotated[bool, BeforeValidator(_flag)]
ListenAddress = Annotated[Address, BeforeValidator(_address)]
DatabaseUrl = Annotated[
    SecretStr, AfterValidator(lambda url: _url(url, ("postgresql", "postgres")))
]
BrokerUrl = Annotated[SecretStr, AfterValidator(lambda url: _url(url, ("amqp", "amqps")))]
