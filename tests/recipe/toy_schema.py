"""A small schema with everything that a recipe schema can hold: kinds within kinds, lists, null, choices, rules between fields."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from moecli.config import Config, Fraction, KindConfig, NonNegativeInt, OneOf, PositiveFloat, PositiveInt
from moecli.errors import FieldProblem


class TopK(KindConfig):
    kind: Literal["topk"] = "topk"
    top_k: PositiveInt = 2


class Hash(KindConfig):
    kind: Literal["hash"] = "hash"
    hash_seed: int = 0


Router = Annotated[TopK | Hash, OneOf({"topk": TopK, "hash": Hash}, default="topk")]


class Sparse(KindConfig):
    kind: Literal["sparse"] = "sparse"
    num_experts: PositiveInt = 8
    d_expert: PositiveInt | None = None
    router: Router = TopK()

    def problems(self) -> list[FieldProblem]:
        if not isinstance(self.router, TopK) or self.router.top_k <= self.num_experts:
            return []
        what = f"{self.router.top_k} experts per token, but there are only {self.num_experts}"
        return [FieldProblem("router.top_k", what, allowed=f"1 to {self.num_experts}", involves=("num_experts",))]


class MLP(KindConfig):
    kind: Literal["mlp"] = "mlp"
    d_ff: PositiveInt | None = None


class Soft(KindConfig):
    kind: Literal["soft"] = "soft"
    num_experts: PositiveInt = 8


class Model(Config):
    d_model: PositiveInt = 128
    num_heads: PositiveInt = 4
    ffn: Annotated[Sparse | MLP | Soft, OneOf({"sparse": Sparse, "mlp": MLP, "soft": Soft}, default="sparse")] = Sparse()
    layers: Literal["all"] | list[NonNegativeInt] = "all"
    routers: Annotated[list[Router], Field(default_factory=list)]

    def problems(self) -> list[FieldProblem]:
        if self.d_model % self.num_heads == 0:
            return []
        what = f"{self.num_heads} heads do not divide d_model {self.d_model}"
        return [FieldProblem("num_heads", what, involves=("d_model",))]


class Corpus(Config):
    path: str
    weight: Fraction = 1.0


class Data(Config):
    seq_len: Annotated[int, Field(multiple_of=8)] = 256
    files: Annotated[list[str], Field(default_factory=list)]
    shape: Annotated[tuple[int, ...], Field(strict=False)] = ()
    labels: Annotated[dict[str, int], Field(default_factory=dict)]
    extra: Corpus | None = None
    tag: Annotated[str, Field(min_length=1, max_length=8, pattern="^[a-z]*$")] = "x"


class Training(Config):
    steps: PositiveInt = 300
    learning_rate: PositiveFloat = 1e-3
    dropout: Fraction = 0.0
    compile: bool = False
    optimizer: Literal["adamw", "muon"] = "adamw"
    clip: Annotated[float, Field(gt=0, le=10)] | bool | None = None


class Toy(Config):
    """The whole."""

    name: str = "toy"
    seed: int = 0
    model: Model = Model()
    data: Data = Data()
    training: Training = Training()

    def problems(self) -> list[FieldProblem]:
        if len(self.data.files) <= self.training.steps:
            return []
        return [FieldProblem("data.files", "more files than steps", involves=("training.steps",))]
