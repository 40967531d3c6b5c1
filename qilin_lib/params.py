"""Typed parameters: a profile (params/<name>.yaml) holds one whole experiment, a notebook's cell overrides a handful.

papermill only warns about an unknown `-p`, hands `-p flag false` over as a string and reads YAML 1.1, where `2e-5` is
a string and `NO` is False (nteract/papermill#667, #818). `load` re-reads what arrived and refuses what is ambiguous.
"""

from __future__ import annotations

import ast
import html
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin

import yaml
from pydantic import ValidationError

from qilin_lib.errors import QilinError, nearest
from qilin_lib.schema import SECTIONS, SHARED, Strict

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = tuple(SECTIONS)


class _StrictLoader(yaml.SafeLoader):
    """SafeLoader with the scalars of YAML 1.2: `2e-5` is a number, `NO`, `on`, `017` and `12:30` are not magic."""


_StrictLoader.yaml_implicit_resolvers = {}
for _tag, _pattern, _first in (
    ("bool", r"^(?:true|false)$", "tf"),
    ("int", r"^[-+]?[0-9]+$", "-+0123456789"),
    ("float", r"^[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?$", "-+.0123456789"),
    ("null", r"^(?:~|null|)$", "~n\0"),
):
    _StrictLoader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(_pattern), list(_first) + [""])


def _mapping_without_duplicates(loader: _StrictLoader, node: yaml.MappingNode) -> dict:
    seen: dict[str, int] = {}
    for key_node, _ in node.value:
        key, line = key_node.value, key_node.start_mark.line + 1
        if key in seen:
            raise QilinError(f"{loader.name}, line {line}: key '{key}' stands twice (first in line {seen[key]})")
        seen[key] = line
    return loader.construct_mapping(node, deep=True)


_StrictLoader.add_constructor("tag:yaml.org,2002:map", _mapping_without_duplicates)
_StrictLoader.add_constructor("tag:yaml.org,2002:int", lambda _, node: int(node.value))
_StrictLoader.add_constructor("tag:yaml.org,2002:float", lambda _, node: float(node.value))


def read_yaml(path: str | Path) -> dict:
    """Read a YAML file with YAML 1.2 scalars; duplicate keys and syntax errors raise QilinError with file and line."""
    try:
        with open(path, encoding="utf-8") as handle:
            value = yaml.load(handle, _StrictLoader)
    except yaml.YAMLError as reason:
        raise QilinError(f"{path}: not valid YAML: {' '.join(str(reason).split())}") from None
    if not isinstance(value, dict):
        raise QilinError(f"{path}: expected 'key: value' lines, found {type(value).__name__}")
    return value


def params_dir() -> Path:
    """The folder of profiles; QILIN_PARAMS_DIR points elsewhere."""
    return Path(os.environ.get("QILIN_PARAMS_DIR", ROOT / "params"))


def profiles() -> list[str]:
    """Names of the profiles in the params folder."""
    return sorted(p.stem for p in params_dir().glob("*.yaml"))


def read_profile(profile: str) -> dict:
    """The raw content of params/<profile>.yaml with unknown sections refused."""
    path = params_dir() / f"{profile}.yaml"
    if not path.exists():
        raise QilinError(
            f"profile '{profile}': no such file {path}{nearest(profile, profiles())}; there are {profiles()}"
        )
    content = read_yaml(path)
    known = {section for section, _ in SECTIONS.values()} | set(SHARED)
    for key in content:
        if key not in known:
            raise QilinError(f"{path}: unknown key '{key}'{nearest(key, known)}; allowed are {sorted(known)}")
    return content


def load(notebook: str, namespace: Mapping[str, Any] | None = None) -> Strict:
    """Resolved, validated parameters of one notebook: profile, then the overrides found in `namespace`.

    `namespace` is a notebook's `globals()` (only cells made of plain `name = literal` lines count, so that running the
    load again is safe after a later cell took one of the names) or a plain dict of overrides. `None` means "as the
    profile says". Raises QilinError naming parameter, value and nearest choice.
    """
    if notebook not in SECTIONS:
        raise QilinError(f"notebook '{notebook}': unknown{nearest(notebook, NOTEBOOKS)}; there are {list(NOTEBOOKS)}")
    section, model = SECTIONS[notebook]
    overrides = _overrides(namespace or {})
    profile = str(overrides.pop("profile", None) or "smoke")
    content = read_profile(profile)
    fields = {name: field for name, field in model.model_fields.items() if name != "notebook"}
    for name in overrides:
        if name not in fields:
            raise QilinError(
                f"{notebook}: unknown parameter '{name}'{nearest(name, fields)}; known are {sorted(fields)}"
            )
    values = {key: content[key] for key in SHARED if key in content and key in fields}
    values |= _section(content, section, fields, params_dir() / f"{profile}.yaml")
    values |= {name: _plain(value, fields[name].annotation) for name, value in overrides.items() if value is not None}
    values |= {"notebook": notebook, "profile": profile, "run": values.get("run") or profile}
    return _validated(model, values, f"{notebook} (profile {profile})")


def _section(content: dict, section: str, fields: Mapping[str, Any], path: Path) -> dict:
    values = content.get(section) or {}
    if not isinstance(values, dict):
        raise QilinError(f"{path}: '{section}:' must hold 'key: value' lines, found {values!r}")
    for name in values:
        if name not in fields or name in SHARED:
            raise QilinError(f"{path}: unknown key '{name}' in '{section}:'{nearest(name, set(fields) - set(SHARED))}")
    return dict(values)


def _validated(model: type[Strict], values: dict, where: str) -> Strict:
    try:
        return model.model_validate(values)
    except ValidationError as errors:
        first = errors.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        # An error of a whole-model rule has no location; its message already names the parameters.
        what = f"{name} = {first['input']!r}: " if name else ""
        raise QilinError(f"{where}: {what}{first['msg'].removeprefix('Value error, ')}") from None


def _overrides(namespace: Mapping[str, Any]) -> dict[str, Any]:
    if "In" not in namespace:
        return {k: v for k, v in namespace.items() if v is not None}
    values: dict[str, Any] = {}
    derived = ""
    for source in namespace["In"]:
        found, wrong = _assignments(source)
        # A parameters cell that is mended and run again starts anew; the cell that papermill injects adds to it.
        if "profile" in found and not source.startswith("# Parameters"):
            values, derived = {}, wrong
        values |= {} if wrong else found
    if derived:
        raise QilinError(f"parameters cell: `{derived}` is not a plain `name = literal` line; write the value itself")
    return {name: value for name, value in values.items() if value is not None}


def _assignments(source: str) -> tuple[dict[str, Any], str]:
    """({name: value} of what a cell assigns, its first statement that is no `name = literal`); with one it is code."""
    try:
        body = ast.parse(source).body
    except (SyntaxError, ValueError):
        return {}, source
    values, wrong = {}, ""
    for line in body:
        targets = line.targets if isinstance(line, ast.Assign) else [getattr(line, "target", None)]
        try:
            value = ast.literal_eval(line.value) if isinstance(line, ast.Assign) and len(targets) == 1 else line
        except (ValueError, TypeError):
            value = line
        values |= {target.id: value for target in targets if isinstance(target, ast.Name)}
        if value is line or not isinstance(targets[0], ast.Name):
            wrong = wrong or str(ast.get_source_segment(source, line))
    return values, wrong


def _plain(value: Any, annotation: Any) -> Any:
    """Undo papermill's strings where only one reading is possible: 'false', '2e-5', '8', '[1, 2]'."""
    if not isinstance(value, str):
        return value
    types = _members(annotation)
    if bool in types and value in ("true", "false", "True", "False"):
        return value.lower() == "true"
    if int in types and re.fullmatch(r"[-+]?\d+", value):
        return int(value)
    if float in types and re.fullmatch(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?", value):
        return float(value)
    if list in types and value.startswith("["):
        try:
            return json.loads(value)
        except ValueError:
            return value
    return value


def _members(annotation: Any) -> set[Any]:
    if get_origin(annotation) in (Union, UnionType):
        return set().union(*(_members(a) for a in get_args(annotation)))
    return {get_origin(annotation) or annotation}


def to_html(parameters: Strict) -> str:
    """The resolved parameters as a small table for a notebook."""
    rows = "".join(
        f"<tr><td><code>{name}</code></td><td>{html.escape(json.dumps(value, ensure_ascii=False))}</td></tr>"
        for name, value in parameters.model_dump(mode="json").items()
    )
    return (
        f"<details><summary>Parameters of {parameters.notebook}, profile <b>{parameters.profile}</b></summary>"
        f"<table>{rows}</table></details>"
    )
