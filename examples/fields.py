"""Reading a payload: what cannot be right on a second try is refused at once, in one sentence."""

from collections.abc import Collection

from headway_worker import PermanentError

CHOICES_MAX = 1_000


class Fields:
    """The fields of one JSON payload, checked as they are read.

    Each error says which field, what it held and what was expected. All are PermanentError: a
    retry would read the same payload again. A field that no handler knows is an error too,
    because a misspelt option that is ignored does the wrong work without a word.
    """

    def __init__(self, payload: object, known: Collection[str]) -> None:
        if not isinstance(payload, dict):
            raise PermanentError(f"the payload is {type(payload).__name__}; expected a JSON object")
        for name in payload:
            if name not in known:
                raise PermanentError(f"unknown field {name!r}; known are {', '.join(known)}")
        self._values: dict[str, object] = payload

    def text(self, name: str, default: str | None = None) -> str:
        """A string that is not empty; required if there is no default."""
        value = self._values.get(name, default)
        if not isinstance(value, str) or not value:
            raise PermanentError(f"{name} is {value!r}; expected a text")
        return value

    def choice(self, name: str, choices: Collection[str], default: str) -> str:
        """One of the choices."""
        value = self.text(name, default)
        if value not in choices:
            raise PermanentError(f"{name} is {value!r}; expected one of {', '.join(choices)}")
        return value

    def integer(self, name: str, *, default: int, minimum: int, maximum: int) -> int:
        """A whole number from minimum to maximum, both included."""
        return _integer(name, self._values.get(name, default), minimum=minimum, maximum=maximum)

    def integers(
        self, name: str, *, default: list[int], minimum: int, maximum: int, length_max: int
    ) -> list[int]:
        """One to length_max whole numbers, each from minimum to maximum."""
        values = self._items(name, default, length_max=length_max)
        return [_integer(name, value, minimum=minimum, maximum=maximum) for value in values]

    def choices(self, name: str, choices: Collection[str]) -> list[str]:
        """Some of the choices, in the order given, each once; all of them by default."""
        values = self._items(name, list(choices), length_max=CHOICES_MAX)
        for value in values:
            if value not in choices:
                raise PermanentError(f"{name} holds {value!r}; known are {', '.join(choices)}")
        return list(dict.fromkeys(str(value) for value in values))

    def _items(self, name: str, default: object, *, length_max: int) -> list[object]:
        values = self._values.get(name, default)
        if not isinstance(values, list) or not 1 <= len(values) <= length_max:
            raise PermanentError(f"{name} is {values!r}; expected a list of 1 to {length_max}")
        return values


def _integer(name: str, value: object, *, minimum: int, maximum: int) -> int:
    # bool is a kind of int in Python, but `true` is not a number in JSON.
    if not isinstance(value, int) or isinstance(value, bool) or not minimum <= value <= maximum:
        raise PermanentError(
            f"{name} is {value!r}; expected a whole number from {minimum} to {maximum}"
        )
    return value
