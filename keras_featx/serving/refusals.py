"""Requests that get another answer than the one they asked for."""


class Refused(Exception):
    """A request that is not done.

    Args:
        status: Of HTTP: 4xx for the caller's faults, 5xx for ours.
        message: One sentence for the caller.
        headers: Of the answer.
    """

    def __init__(self, status: int, message: str, headers: dict[str, str] | None = None):
        super().__init__(message)
        self.status, self.message, self.headers = status, message, headers or {}


def invalid(message: str) -> Refused:
    """A request that is wrong in itself: 400."""
    return Refused(400, message)
