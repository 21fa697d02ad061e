"""Names of a model's classes from a file that a user has."""

import json
from collections import Counter
from pathlib import Path

from edgeresnet.errors import DataError


def read_labels(path: Path) -> tuple[str, ...]:
    """Read class names in the order of a model's outputs.

    Args:
        path: Text in UTF-8: one name a line, or a JSON list of them.

    Raises:
        DataError: If the file cannot be read, holds fewer than two names or something else, or has an empty name or one twice.
    """
    try:
        text = path.read_text("utf-8-sig")
    except OSError as error:
        raise DataError(f"{path}: the labels cannot be read ({error.strerror or error})") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not a file of labels: it is not text in UTF-8") from error
    names = _parse_json(path, text) if text.lstrip().startswith(("[", "{")) else [line.strip() for line in text.strip().splitlines()]
    empty = [number for number, name in enumerate(names, start=1) if not name]
    if empty:
        raise DataError(f"{path}: name {empty[0]} of {len(names)} is empty; fix: give every class a name, in the order of the outputs")
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        first, second = [number for number, name in enumerate(names, start=1) if name == twice[0]][:2]
        raise DataError(f"{path}: {twice[0]!r} is there twice, as name {first} and {second}; fix: give every class a name of its own")
    if len(names) < 2:
        raise DataError(f"{path}: has {len(names)} name(s); a classifier has at least two classes")
    return tuple(names)


def _parse_json(path: Path, text: str) -> list[str]:
    try:
        names = json.loads(text)
    # Nested too deeply is a RecursionError.
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: begins like JSON and is not ({error})") from error
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise DataError(f'{path}: labels in JSON must be a list of names, such as ["cat", "dog"]')
    return [name.strip() for name in names]
