"""What every table of a recipe is: frozen, typed, and strict about the keys it knows."""

import difflib
import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

SOURCE = "source"
"""In place of a stage's name: the model of the recipe's [model] table."""
Count = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, le=1)]
NonNegative = Annotated[float, Field(ge=0)]


class Config(BaseModel):
    """Base of every table: frozen, and a key it does not know is an error with the closest one named."""

    not_decisive: ClassVar[tuple[str, ...]] = ()
    """Keys that change what a stage costs or how it gets there, not what it makes."""
    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=(), use_attribute_docstrings=True)

    def left_out_of_key(self) -> tuple[str, ...]:
        """`not_decisive`, as far as it is true of this very table."""
        return self.not_decisive

    @model_validator(mode="before")
    @classmethod
    def _known_keys(cls, data: Any) -> Any:
        if isinstance(data, dict):
            for key in data:
                if key not in cls.model_fields:
                    raise ValueError(f"unknown key {key!r}{closest(key, cls.model_fields)}")
        return data


def _names_a_folder(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}", name):
        raise ValueError(f"{name!r} becomes the name of files: up to 64 letters, digits, _ and -, the first no - or _")
    return name


Name = Annotated[str, AfterValidator(_names_a_folder)]
"""Of a stage or a suite."""


def closest(word: str, allowed: Sequence[str] | Mapping[str, Any]) -> str:
    matches = difflib.get_close_matches(word, list(allowed), n=1, cutoff=0.5)
    return f"; did you mean {matches[0]!r}?" if matches else f"; allowed: {', '.join(sorted(allowed))}"
