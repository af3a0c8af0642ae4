"""What every config of moecli is: frozen, strict, and one of a table where there is a choice.

Knows pydantic. Must not know any config by name: each stands beside the class that it configures.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Union

from annotated_types import Ge, Gt, Interval
from pydantic import BaseModel, ConfigDict, Discriminator, GetCoreSchemaHandler, Tag
from pydantic_core import CoreSchema

from moecli.errors import FieldProblem, FieldProblems

# The largest whole number that a config can hold: beyond it lies a slip of the keyboard, and products that overflow 64 bits.
LARGEST = 2**31 - 1

PositiveInt = Annotated[int, Interval(ge=1, le=LARGEST)]
NonNegativeInt = Annotated[int, Interval(ge=0, le=LARGEST)]
PositiveFloat = Annotated[float, Gt(0)]
NonNegativeFloat = Annotated[float, Ge(0)]
Fraction = Annotated[float, Interval(ge=0, le=1)]


class Config(BaseModel):
    """Base of every config: no unknown keys, no silent conversions, no NaN, no change after it is built.

    A rule between several fields goes into `problems`.
    """

    model_config = ConfigDict(
        strict=True, extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True, protected_namespaces=()
    )

    def problems(self) -> list[FieldProblem]:
        """The rules between fields that are broken; an empty list where all is well."""
        return []

    def model_post_init(self, context: Any, /) -> None:
        problems = self.problems()
        if problems:
            raise FieldProblems(problems)


class KindConfig(Config):
    """A config that is one of several, told apart by its `kind`."""

    kind: str


class OneOf:
    """Annotation: the value is a config of this table, chosen by its key `kind`, which may be left out for the default.

    `router: Annotated[RouterConfig, OneOf({"topk": TopKConfig}, default="topk")]`
    """

    def __init__(self, table: Mapping[str, type[KindConfig]], default: str) -> None:
        assert default in table
        self.table = table
        self.default = default

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        members = tuple(Annotated[config, Tag(kind)] for kind, config in self.table.items())
        return handler.generate_schema(Annotated[Union[members], Discriminator(self._kind_of)])  # noqa: UP007 (built at run time)

    def _kind_of(self, value: Any) -> Any:
        if isinstance(value, dict):
            kind = value.get("kind", self.default)
            return kind if isinstance(kind, str) else None
        return getattr(value, "kind", None)
