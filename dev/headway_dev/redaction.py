"""Addresses as they may be shown."""

from urllib.parse import urlsplit, urlunsplit


def without_secrets(url: str) -> str:
    """Return a URL without user, password, query and fragment; of one that is none, the scheme."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    if host == parts.netloc and "@" in parts.path + parts.query + parts.fragment:
        return f"{parts.scheme}://…"  # a / ? or # in the password has cut it in two
    return urlunsplit(parts._replace(netloc=host, query="", fragment=""))
