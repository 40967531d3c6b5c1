"""YAML as profiles and other data files of the kit are written: UTF-8, YAML 1.2's scalars, no aliases, no tags."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from qilin_lib.errors import QilinError

# Bytes of a file; PyYAML reads some 100 kB in a second.
LARGEST = 2**18


class _Loader(yaml.SafeLoader):
    """SafeLoader with the scalars of YAML 1.2: `2e-5` is a number, `NO`, `on`, `017` and `12:30` are not magic."""

    yaml_implicit_resolvers: dict = {}

    def compose_node(self, parent: Any, index: Any) -> yaml.Node:
        event = self.peek_event()
        # A few hundred bytes of aliases are gigabytes once followed, and a tag calls a constructor by name.
        if event.anchor or getattr(event, "tag", None):
            line = event.start_mark.line + 1
            raise QilinError(f"{self.name}, line {line}: anchors, aliases and tags are not read; write the value out")
        return super().compose_node(parent, index)

    def fetch_flow_collection_start(self, kind: type[yaml.Token]) -> None:
        if self.flow_level > 50:  # the scanner's time grows with the square of it
            raise QilinError(f"{self.name}, line {self.line + 1}: not valid YAML: nested too deeply")
        super().fetch_flow_collection_start(kind)


for _tag, _pattern, _first in (
    ("bool", r"^(?:true|false)$", "tf"),
    ("int", r"^[-+]?[0-9]+$", "-+0123456789"),
    ("float", r"^[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?$", "-+.0123456789"),
    ("null", r"^(?:~|null|)$", "~n\0"),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(_pattern), list(_first) + [""])


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict:
    seen: dict[str, int] = {}
    for key_node, _ in node.value:
        key, line = key_node.value, key_node.start_mark.line + 1
        if not isinstance(key, str):
            raise QilinError(f"{loader.name}, line {line}: a list or mapping is no key; write a name")
        if key in seen:
            raise QilinError(f"{loader.name}, line {line}: key '{key:.100}' stands twice (first in line {seen[key]})")
        seen[key] = line
    return loader.construct_mapping(node, deep=True)


_Loader.add_constructor("tag:yaml.org,2002:map", _mapping)
_Loader.add_constructor("tag:yaml.org,2002:int", lambda _, node: int(node.value))
_Loader.add_constructor("tag:yaml.org,2002:float", lambda _, node: float(node.value))


def parse(text: str, name: str) -> Any:
    """The value of a YAML text called `name` in errors; QilinError with the line, where known, if it is none."""
    try:
        loader = _Loader(text)
        loader.name = name
        return loader.get_single_data()
    except yaml.MarkedYAMLError as reason:
        # Not str(reason): it quotes the text, and with it perhaps a key.
        line = (reason.problem_mark or reason.context_mark).line + 1
        why = f"{reason.context or ''} {reason.problem or ''}".strip()
        raise QilinError(f"{name}, line {line}: not valid YAML: {why}") from None
    except yaml.YAMLError:
        raise QilinError(f"{name}: not valid YAML: control characters; is it UTF-8? (see iconv -t UTF-8)") from None
    except (RecursionError, ValueError) as reason:
        why = "nested too deeply" if isinstance(reason, RecursionError) else "a number of more than 4,300 digits"
        raise QilinError(f"{name}: not valid YAML: {why}") from None


def read(path: str | Path) -> dict:
    """The mapping in a YAML file; QilinError with file and line for what cannot be read or is none."""
    try:
        data = Path(path).read_bytes()
        text = data.decode("utf-8-sig")
    except OSError as reason:
        raise QilinError(f"{path}: cannot be read ({reason.strerror})") from None
    except UnicodeDecodeError as reason:
        raise QilinError(f"{path}, byte {reason.start}: not UTF-8; convert the file with iconv -t UTF-8") from None
    if len(data) > LARGEST:
        raise QilinError(f"{path}: {len(data):,} bytes are more than the {LARGEST:,} that are read")
    value = parse(text, str(path))
    if not isinstance(value, dict):
        raise QilinError(f"{path}: expected 'key: value' lines, found {type(value).__name__}")
    return value
