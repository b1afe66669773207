"""Options in a YAML file: reads those for a run, and writes those that repeat a run."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mitune.arguments.option import Option, quoted
from mitune.arguments.spec import options as options_of
from mitune.arguments.spec import value_of
from mitune.arguments.words import nearest
from mitune.core import progress
from mitune.core.errors import UserError

NAME = "command.yaml"
"""Name of the file in a run's folder."""
_LARGEST = 1 << 20
_LIST, _NULL = "tag:yaml.org,2002:seq", "tag:yaml.org,2002:null"
_TAGS = {
    f"tag:yaml.org,2002:{kind}" for kind in ("null", "str", "int", "float", "bool", "timestamp")
}


def read(path: Path, verb: str, options: Mapping[str, Option]) -> dict[str, Any]:
    """Read the values in a file, by field name.

    Keys are the options' names; ``verb``, if the file has it, must be this verb.

    Raises:
        UserError: the file cannot be read or is not a flat mapping; a key is unknown or occurs
            twice; a value has the wrong type.
    """
    found: dict[str, Any] = {}
    for key, value in _load(path):
        name = key.replace("-", "_")
        if name == "verb":
            if value != verb:
                raise UserError(f"{path} is of the verb {quoted(value)}: expected one of {verb}")
            continue
        now = next((o.name for o in options.values() if o.former == name), None)
        if now is not None:
            progress.warn(f"{path}: {name} is called {now} now")
            name = now
        if name not in options:
            near = nearest(name, [option.name for option in options.values()])
            raise UserError(f"{path}: {quoted(key)} is no option of {verb}{near}")
        if name in found:
            raise UserError(f"{path}: {quoted(key)} is there twice: give it once")
        try:
            found[name] = options[name].from_file(value)
        except UserError as error:
            raise UserError(f"{path}: {error}") from None
    return found


def _load(path: Path) -> Iterator[tuple[str, Any]]:
    """Yield the key and the value of each line; a value is raw text, None, or a list of these.

    YAML itself would read 1e-4 as text, 25:20 as a number and "on" as true; the option knows its
    type better. Tags never construct an object.
    """
    import yaml

    try:
        with path.open("rb") as file:
            content = file.read(_LARGEST + 1)
        if len(content) > _LARGEST:
            raise UserError(f"{path} is larger than {_LARGEST} bytes: expected a file of options")
        node = yaml.compose(content.decode("utf-8-sig"), yaml.SafeLoader)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UserError(f"{path} is not text in UTF-8: expected a YAML file of options") from None
    except (yaml.YAMLError, RecursionError) as error:
        why = " ".join(str(error).split())[:200]
        raise UserError(f"{path} is not YAML: {why}") from None
    if node is None:
        return
    if not isinstance(node, yaml.MappingNode):
        raise UserError(f"{path} is not a mapping: expected lines such as 'candidates: 50'")

    def plain(part: Any) -> Any:
        if isinstance(part, yaml.ScalarNode) and part.tag in _TAGS:
            return None if part.tag == _NULL else part.value
        raise UserError(f"{path}, line {part.start_mark.line + 1}: expected a value or a list")

    for key, value in node.value:
        listed = isinstance(value, yaml.SequenceNode) and value.tag == _LIST
        yield str(plain(key)), list(map(plain, value.value)) if listed else plain(value)


def write(command: object, folder: Path) -> None:
    """Write all options of ``command`` that are not None to ``folder``/command.yaml; the file
    appears whole or not at all."""
    import yaml

    kind: type = type(command)
    verb = kind.__name__.lower()
    values = {
        name: _plain(value)
        for name, option in options_of(kind).items()
        if (value := value_of(command, option)) is not None
    }
    text = (
        f"# Repeats this run: mitune {verb} --config FILE. Relative paths are those of the folder "
        "it was started in.\n"
    )
    text += yaml.safe_dump({"verb": verb, **values}, sort_keys=False, allow_unicode=False)
    part = folder / f".{NAME}.{os.getpid()}"
    try:
        part.write_text(text, encoding="utf-8")
        part.replace(folder / NAME)
    finally:
        part.unlink(missing_ok=True)


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    return list(value) if isinstance(value, (list, tuple)) else value
