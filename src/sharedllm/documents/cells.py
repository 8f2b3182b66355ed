"""The values of a spreadsheet's cells as text, as a reader would write them: 3, 12.5%, 2024-01-05, 09:30."""

from datetime import date, datetime, time, timedelta
from typing import Any

# Spreadsheets keep so many digits of a number.
DIGITS = 15


def written(value: Any, percent: bool = False) -> str:
    """
    Args:
        value: of a cell, of any type that calamine gives; "" and None are empty. percent: the cell shows a number as a share.
    """
    if isinstance(value, bool):
        return "TRUE" if value else "FALSE"
    if isinstance(value, (float, int)):
        return f"{_number(float(f'{100 * value:.{DIGITS - 2}g}'))}%" if percent else _number(value)
    if isinstance(value, datetime):
        value = _whole_seconds(value)
        return value.isoformat(" ", "seconds" if value.second else "minutes")
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, time):
        value = _whole_seconds(datetime.combine(date(2000, 1, 1), value)).time()
        return value.isoformat("seconds" if value.second else "minutes")
    if isinstance(value, timedelta):
        return _duration(round(value.total_seconds()))
    return "" if value is None else str(value)


def _number(value: int | float) -> str:
    """A number without the end that only its storage has: 3 for 3.0, 0.3 for 0.30000000000000004."""
    if isinstance(value, int) or (value.is_integer() and abs(value) < 10 ** (DIGITS + 1)):
        return str(int(value))
    return f"{value:.{DIGITS}g}"


def _whole_seconds(value: datetime) -> datetime:
    """Times are fractions of a day, so that a second may lack a millisecond."""
    try:
        return (value + timedelta(microseconds=500_000)).replace(microsecond=0)
    except OverflowError:
        return value.replace(microsecond=0)


def _duration(seconds: int) -> str:
    """Hours, which may be more than a day's, minutes, and seconds if there are any."""
    sign, seconds = "-" if seconds < 0 else "", abs(seconds)
    minutes, rest = divmod(seconds, 60)
    return f"{sign}{minutes // 60:02}:{minutes % 60:02}" + (f":{rest:02}" if rest else "")
