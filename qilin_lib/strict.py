"""What the parameters of all notebooks share: no unknown key, no silent conversion, a table of what each means."""

from __future__ import annotations

import json
import re
from functools import partial
from os.path import expanduser
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PrivateAttr

from qilin_lib import chains
from qilin_lib.annotations import describe

SHARED = ("notebook", "profile", "run", "from_run", "seed", "chain", "stage")  # these stand in no section of a profile
# A parameter that changes no result, and so no stage's key; nothing else is marked.
Outside = partial(Field, json_schema_extra={"outside_key": True})
RunName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100)]
StageName = Annotated[str, Field(pattern=chains.NAME)]


def _modules(value: str | list[str]) -> str | list[str]:
    if not value:
        raise ValueError("names no layer; nearest valid: all-linear")
    try:
        re.compile(value if isinstance(value, str) else "")
    except re.error as reason:
        raise ValueError(f"no regular expression ({reason}); nearest valid: a list such as [q_proj, v_proj]") from None
    return value


def _some(value: int) -> int:
    if not value:
        raise ValueError("the libraries read 0 as no limit; nearest valid: 1, or -1 for as many as the epochs have")
    return value


class SecretError(ValueError):
    """Of a parameter whose value no message may show."""


# Names of fields that are a secret, whatever stands there, and texts that are one, whatever they are called.
SECRET = re.compile(
    r"(?i)^(key|token)$|(api_?key|access_?key|secret|passw(or)?d|credentials?|authorization|cookies?|(hf|hub|auth|access|api)_?token)$"
)
KEY = re.compile(r"Bearer\s+\S+|(?:sk|pk|hf|gh[pousr]|glpat|AKIA|AIza)[-_]?(?=\S*\d)(?=\S*[A-Z])[\w-]{16,}")


def _open(value: Any, name: str = "") -> Any:
    """What another program is to have, and no secret in it: manifests and executed notebooks hold all parameters."""
    for key, one in value.items() if isinstance(value, dict) else []:
        _open(one, str(key))
    for one in value if isinstance(value, list) else []:
        _open(one, name)
    plain = not isinstance(value, dict | list | bool) and value
    if plain and (SECRET.search(name.replace("-", "_")) or KEY.fullmatch(str(value))):
        raise SecretError(
            f"{name}: a key or password would be stored in the run; nearest valid: a variable of the environment, for "
            "an endpoint the one that api_key_env names"
        )
    return value


# Fields that are handed on to a library or a server as they are.
Fields = Annotated[dict[str, Any], AfterValidator(_open)]
StepCount = Annotated[int, AfterValidator(_some)]
Modules = Annotated[str | list[str], AfterValidator(_modules)]
LocalPath = Annotated[str, Field(min_length=1), AfterValidator(expanduser)]


class Part(BaseModel):
    """Base of all parameter classes: no unknown key, silent conversion or infinity, no change after loading."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False, regex_engine="python-re")


class Strict(Part):
    """What every notebook has. A notebook shows it as a folded table: value, origin and meaning of each parameter."""

    notebook: str = Field(description="which stage of the paper this is")
    profile: str = Outside(description="the file of params/ that says all other values")
    run: RunName = Outside(description="folder of runs/ to work in; null: named as the profile")
    from_run: RunName | None = Outside(default=None, description="a run whose finished stages this run may stand on")
    seed: int = Field(ge=0, lt=2**32, description="of every random draw; released code: 42")
    chain: Annotated[list[str], AfterValidator(chains.checked)] = Outside(
        default=list(chains.DEFAULT), min_length=1, description="trainings in order, each on the one before"
    )

    # {parameter: "override", or the profile that says it}
    _origins: dict[str, str] = PrivateAttr(default_factory=dict)

    @property
    def folder(self) -> str:
        """The stage's folder in a run."""
        return self.notebook

    @property
    def frame(self) -> Any:
        """DataFrame of all parameters: parameter, value (JSON), origin, meaning."""
        import pandas as pd

        fields = type(self).model_fields
        values = {name: json.dumps(value, ensure_ascii=False) for name, value in self.model_dump(mode="json").items()}
        rows = [(name, text, self._origins.get(name, ""), describe(fields[name])) for name, text in values.items()]
        return pd.DataFrame(rows, columns=["parameter", "value", "origin", "meaning"])

    def _repr_html_(self) -> str:
        import pandas as pd

        with pd.option_context("display.max_colwidth", None, "display.max_rows", None):
            table = self.frame.to_html(index=False, escape=True)
        return f"<details><summary>Parameters of {self.notebook} (value, origin, meaning)</summary>{table}</details>"
