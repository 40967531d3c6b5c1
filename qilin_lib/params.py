"""Typed parameters: a profile (params/<name>.yaml) holds one whole experiment, a notebook's cell overrides a handful.

`chain:` names the run's trainings; a further one of a kind, such as sft2, has a section `sft2:` with what differs from
`sft:`. A profile may say `extends: <profile>` and then only what differs. Values of the parent stand under those of the
profile's `train:` block (for dcpt, sft, dpo and rlhf, where they have the parameter), those under its own sections; a
value is replaced whole, also a mapping. papermill only warns about an unknown `-p`, hands `-p flag false` over as a
string and reads YAML 1.1, where `2e-5` is a string and `NO` is False (nteract/papermill#667, #818): `load` re-reads
what arrived and refuses what is ambiguous.
"""

from __future__ import annotations

import ast
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import NoneType
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ValidationError

from qilin_lib import chains, strict_yaml
from qilin_lib.annotations import SILENT, choices, describe, members
from qilin_lib.errors import QilinError, nearest
from qilin_lib.schema import SECTIONS, Trained, Training
from qilin_lib.strict import SHARED, SecretError, Strict
from qilin_lib.strict_yaml import read as read_yaml

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = tuple(SECTIONS)
MODELS = dict(SECTIONS.values())
TRAINED = [section for section, model in MODELS.items() if issubclass(model, Trained)]
DEPTH = 5
Settings = dict[tuple[str, str], tuple[Any, str]]


def params_dir() -> Path:
    """The folder of profiles; QILIN_PARAMS_DIR points elsewhere."""
    path = Path(os.environ.get("QILIN_PARAMS_DIR") or ROOT / "params")
    if path.exists() and not path.is_dir():
        raise QilinError(f"QILIN_PARAMS_DIR = '{path}': not a folder; nearest valid: {path.parent}")
    return path


def profiles() -> list[str]:
    """Names of the profiles in the params folder."""
    return sorted(p.stem for p in params_dir().glob("*.yaml"))


def read_profile(profile: str) -> dict:
    """The raw content of params/<profile>.yaml, without its parent's; unknown sections and keys are refused."""
    if len(profile) > 100:
        raise QilinError(f"profile {_short(profile)}: a name has at most 100 characters")
    path = params_dir() / f"{profile}.yaml"
    if not path.exists():
        names = profiles()
        raise QilinError(f"profile '{profile}': no such file {path}{nearest(profile, names)}; there are {names}")
    content = read_yaml(path)
    known = {"extends", "train", "run", "seed", "chain", *MODELS}
    for key in [key for key in content if key not in known and not re.match(chains.NAME, str(key))]:
        raise QilinError(f"{path}: unknown key {_short(key)}{_nearest(key, known)}; allowed are {sorted(known)}")
    for section in [key for key in content if key not in ("extends", "run", "seed", "chain")]:
        model = MODELS.get(chains.method(section), Training)
        values = {} if content[section] is None else content[section]
        fields = model.model_fields.keys() - set(SHARED)
        if not isinstance(values, dict):
            raise QilinError(f"{path}: '{section}:' must hold 'key: value' lines, found {_short(values)}")
        for name in [name for name in values if name not in fields]:
            raise QilinError(f"{path}: unknown key {_short(name)} in '{section}:'{_nearest(name, fields)}")
    return content


def head(profile: str) -> str:
    """The comment that a profile begins with, in one line."""
    lines = (params_dir() / f"{profile}.yaml").read_text(encoding="utf-8").split("\n\n")[0].splitlines()
    return " ".join(line.lstrip("# ") for line in lines if line.startswith("#"))


def settings(profile: str, children: tuple[str, ...] = ()) -> Settings:
    """{(section, parameter): (value, the profile that says it)} with the parents' values; the seed's section is ""."""
    content, chain = read_profile(profile), (*children, profile)
    parent, where = content.get("extends"), params_dir() / f"{profile}.yaml"
    if not isinstance(parent, str | None):
        raise QilinError(f"{where}: extends = {_short(parent)}: names one profile, such as smoke")
    if parent in chain:
        raise QilinError(f"{where}: extends goes round: {' -> '.join([*chain, parent])}")
    if len(chain) > DEPTH:
        raise QilinError(f"{where}: more than {DEPTH} profiles extend each other: {' -> '.join(chain)}")
    values = settings(parent, chain) if parent else {}
    values.pop(("", "run"), None)
    shared = content.get("train") or {}
    for section in TRAINED:
        values |= {(section, n): (v, profile) for n, v in shared.items() if n in MODELS[section].model_fields}
    # A further training has the values of the first of its kind but for what it says itself.
    values = {key: entry for key, entry in values.items() if key[0] in MODELS or key[1] not in shared}
    for section in [key for key in content if key in MODELS or re.match(chains.NAME, key)]:
        values |= {(section, name): (value, profile) for name, value in (content[section] or {}).items()}
    return values | {("", name): (content[name], profile) for name in ("seed", "run", "chain") if name in content}


def compare(a: str, b: str, section: str | None = None) -> Any:
    """DataFrame of what differs between two profiles (in one section), with columns parameter, `a` and `b`."""
    import pandas as pd

    if section not in (None, *MODELS) and not re.match(chains.NAME, section):
        raise QilinError(f"section '{section}': unknown{nearest(section, MODELS)}; there are {list(MODELS)}")
    first, second = settings(a), settings(b)
    keys = [key for key in first | second if section in (None, key[0]) and key[1] != "run"]
    rows = [(".".join(filter(None, key)), *(each.get(key, (None,))[0] for each in (first, second))) for key in keys]
    return pd.DataFrame([row for row in rows if row[1] != row[2]], columns=["parameter", a, b], dtype=object)


def load(notebook: str, namespace: Mapping[str, Any] | None = None) -> Strict:
    """Resolved, validated parameters of one notebook: profile, then the overrides found in `namespace`.

    `namespace` is a notebook's `globals()` (only cells made of plain `name = literal` lines count, so that running the
    load again is safe after a later cell took one of the names) or a plain dict of overrides. `None` means "as the
    profile says", the string "null" nothing at all. Raises QilinError naming parameter, value and nearest choice.
    """
    if notebook not in SECTIONS:
        raise QilinError(f"notebook '{notebook}': unknown{nearest(notebook, NOTEBOOKS)}; there are {list(NOTEBOOKS)}")
    section, model = SECTIONS[notebook]
    overrides = _overrides(namespace or {})
    profile = str(overrides.pop("profile", None) or "smoke").removesuffix(".yaml")
    said = settings(profile)
    written = {name: entry for (place, name), entry in said.items() if place in ("", section)}
    if (stage := overrides.get("stage")) and chains.method(str(stage)) == section:
        written |= {name: entry for (place, name), entry in said.items() if place == stage}
    fields = {name: field for name, field in model.model_fields.items() if name != "notebook"}
    for name in [name for name in overrides if name not in fields]:
        known = sorted(fields)
        raise QilinError(f"{notebook}: unknown parameter {_short(name)}{_nearest(name, known)}; known are {known}")
    values = {name: value for name, (value, _) in written.items()}
    values |= {name: _plain(value, fields[name].annotation) for name, value in overrides.items()}
    values |= {"notebook": notebook, "profile": profile, "run": values.get("run") or profile}
    try:
        loaded = model.model_validate(values)
    except ValidationError as failure:
        raise QilinError(f"{notebook} (profile {profile}): {failure_sentence(model, failure)}") from None
    if idle := sorted({place for place, _ in said if place and place not in (*MODELS, *loaded.chain)}):
        raise QilinError(
            f"profile {profile}: '{idle[0]}:' is no training of its chain {loaded.chain}; nearest valid: name it there"
        )
    loaded._origins.update({name: origin for name, (_, origin) in written.items()})
    loaded._origins.update(dict.fromkeys(overrides, "override"))
    return loaded


def failure_sentence(model: type[BaseModel], failure: ValidationError) -> str:
    """Parameter, value, reason, nearest valid choice and meaning, of a failure's first parameter."""
    errors = [(error, *_place(model, error["loc"])) for error in failure.errors(include_url=False)]
    first, name, field, _ = errors[0]
    reasons = " or ".join(dict.fromkeys(_reason(error, *place) for error, other, *place in errors if other == name))
    # An error of a whole-model rule has no location; its message already names the parameters.
    if not name:
        return reasons
    # Keys and passwords are typed into lines of baselines, also under names that are not theirs.
    known = field is not None and name.count(".") > 1 and not name.endswith(("endpoint", "api_key_env", "request"))
    secret = isinstance(first.get("ctx", {}).get("error"), SecretError)
    hidden = secret or first["type"] == "missing" or name.startswith(("baselines", "endpoint")) and not known
    shown = "" if hidden else f" = {_short(first['input'])}"
    meaning = f"; meaning: {describe(field).removesuffix(SILENT)}" if field else ""
    return f"{name}{shown}: {reasons}{meaning}"


def _place(model: type[BaseModel], location: tuple) -> tuple[str, Any, list[str]]:
    """(a parameter's dotted name, its field, the fields beside it) for the location of an error; no field: unknown."""
    names, field, known, models = [], None, [], [model]
    # What stands for a member of a union, or for a mapping's key, is no part of the name.
    for part in (part for part in location if not re.fullmatch(r"bool|str|\[key\]|(list|literal)\[.*", str(part))):
        names.append(_cut(str(part), 100))
        if isinstance(part, int):
            continue
        known = [name for one in models for name in one.model_fields]
        field = next((one.model_fields[part] for one in models if part in one.model_fields), None)
        models = _classes(field.annotation) if field else models
    return ".".join(names), field, known


def _classes(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [kind for one in get_args(annotation) for kind in _classes(one)]


def _reason(error: dict[str, Any], field: Any, known: list[str]) -> str:
    if error["type"] == "extra_forbidden":
        return f"unknown key{_nearest(error['loc'][-1], known)}"
    if error["type"] == "literal_error":
        # The key of a mapping has no field of its own, but its error says what it may be.
        known = choices(field) if field else re.findall(r"'(\w+)'", error["msg"])
        return _cut(error["msg"]) + _nearest(error["input"], known)
    if error["type"] == "list_type" and isinstance(error["input"], str):
        return f"{error['msg']}; nearest valid: {_short([word.strip() for word in error['input'].split(',')])}"
    return _cut(error["msg"].removeprefix("Value error, "), 600)


def _nearest(word: Any, choices: Iterable[str]) -> str:
    word = word[:100] if isinstance(word, str) else ""
    return nearest(word, choices) or nearest(word.lower(), choices)


def _short(value: Any) -> str:
    """A value for an error, as it is written in Python, cut if it is long."""
    try:
        return _cut(repr(value))
    except (ValueError, RecursionError):
        return f"a {type(value).__name__} too large to show"


def _cut(text: str, most: int = 200) -> str:
    return text if len(text) <= most else f"{text[: most - 30]}… ({len(text):,} characters)"


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
        raise QilinError(
            f"parameters cell: `{_cut(derived)}` is no plain `name = literal` line; write the value itself"
        )
    return {name: value for name, value in values.items() if value is not None}


def _assignments(source: str) -> tuple[dict[str, Any], str]:
    """({name: value} of what a cell assigns, its first statement that is no `name = literal`); with one it is code."""
    try:
        body = ast.parse(source).body
    except (SyntaxError, ValueError):
        return {}, source
    values, wrong = {}, ""
    for line in body:
        try:
            (target,) = line.targets
            values[target.id] = ast.literal_eval(line.value)
        except (AttributeError, ValueError, TypeError):
            wrong = wrong or str(ast.get_source_segment(source, line))
    return values, wrong


def _plain(value: Any, annotation: Any) -> Any:
    """Undo papermill's strings where only one reading is possible: 'false', '2e-5', '8', '[1, 2]', 'null'."""
    if not isinstance(value, str):
        return value
    kinds = {dict if _classes(kind) == [kind] else get_origin(kind) or kind for kind in members(annotation)}
    try:
        read = strict_yaml.parse({"True": "true", "False": "false"}.get(value, value), "value")
    except QilinError:
        return value
    if read is None:
        return None if value == "null" and NoneType in kinds else value
    return read if type(read) in kinds or (type(read) is int and float in kinds) else value
