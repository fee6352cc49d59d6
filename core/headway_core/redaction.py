"""Keep passwords out of what people read."""

import json
import re
from typing import Final
from urllib.parse import parse_qs, unquote, urlsplit

HIDDEN: Final = "***"

_URL_PASSWORD: Final = re.compile(r"""(\b[a-zA-Z][a-zA-Z0-9+.-]*://[^\s/:@"'\\]*):[^\s"'\\]+@""")
_SECRET_LENGTH_MIN: Final = 4
"""Replacing shorter passwords would garble every line, and tell nothing from anything."""


def redact(text: str) -> str:
    """Hide the password of every URL in a text."""
    # The scan is the expensive part, and most texts hold no URL.
    return _URL_PASSWORD.sub(rf"\1:{HIDDEN}@", text) if "://" in text else text


def url_secrets(*urls: str) -> frozenset[str]:
    """Find the passwords in URLs, in every spelling that a log line may have of them."""
    passwords = {urlsplit(url).password or "" for url in urls}
    # libpq's other spelling: postgresql://host/name?user=…&password=…
    for url in urls:
        passwords.update(parse_qs(urlsplit(url).query).get("password", ()))
    passwords |= {unquote(password) for password in passwords}
    spellings = passwords | {json.dumps(password)[1:-1] for password in passwords}
    return frozenset(text for text in spellings if len(text) >= _SECRET_LENGTH_MIN)


def hide(text: str, secrets: frozenset[str]) -> str:
    """Hide known secrets wherever they stand, and the password of every URL."""
    for secret in secrets:
        if secret in text:
            text = text.replace(secret, HIDDEN)
    return redact(text)
