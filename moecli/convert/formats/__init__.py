"""The classes of Hugging Face by name, in the order in which `auto` tries them. A new class is a file here and a line in FORMATS."""

from __future__ import annotations

from moecli.convert.features import problems_for_all
from moecli.convert.formats.base import Format, ModelFacts
from moecli.convert.formats.glm4_moe import Glm4MoeFormat
from moecli.convert.formats.llama import LlamaFormat
from moecli.convert.formats.mixtral import MixtralFormat
from moecli.convert.formats.olmoe import OlmoeFormat
from moecli.convert.formats.qwen2_moe import Qwen2MoeFormat
from moecli.convert.formats.qwen3 import Qwen3Format
from moecli.convert.formats.qwen3_moe import Qwen3MoeFormat
from moecli.errors import ConvertError
from moecli.model.config import GPTConfig

FORMATS: dict[str, Format] = {
    "llama": LlamaFormat(),
    "qwen3": Qwen3Format(),
    "mixtral": MixtralFormat(),
    "olmoe": OlmoeFormat(),
    "qwen3_moe": Qwen3MoeFormat(),
    "qwen2_moe": Qwen2MoeFormat(),
    "glm4_moe": Glm4MoeFormat(),
}
AUTO = "auto"
NO_OTHER = "train a model with the nearest setting"

__all__ = ["AUTO", "FORMATS", "Format", "ModelFacts", "format_of_type", "pick_format"]


def pick_format(name: str, config: GPTConfig, where: str) -> Format:
    """The class of this name, or with `auto` the first of FORMATS that represents the model.

    Raises:
        ConvertError: it can't represent the model, or none can; it names the features and the nearest that would work.
    """
    problems = {key: fmt.problems(config) for key, fmt in FORMATS.items() if name in (AUTO, key)}
    found = next((key for key, its_problems in problems.items() if not its_problems), None)
    if found is not None:
        return FORMATS[found]
    if name != AUTO:
        others = [key for key, fmt in FORMATS.items() if not fmt.problems(config)]
        lines = [f"{name} can't represent this model:", *(f"  {problem}" for problem in problems[name])]
        raise ConvertError("\n".join(lines), where=where, next_step=f"--to {others[0]}" if others else NO_OTHER)
    # The message names each class, and the nearest setting of one may be beyond another: all that are akin are told.
    reasons = problems_for_all(config) or [problem for key, fmt in FORMATS.items() if fmt.is_akin(config) for problem in problems[key]]
    lines = ["no class of Hugging Face can represent this model:", *(f"  {reason}" for reason in reasons)]
    raise ConvertError("\n".join(lines), where=where, next_step=NO_OTHER)


def format_of_type(model_type: str, where: str) -> Format:
    """The class that config.json calls so.

    Raises:
        ConvertError: moecli has no rules for it.
    """
    if model_type in FORMATS:
        return FORMATS[model_type]
    raise ConvertError(f"moecli has no rules for the architecture {model_type}", where=where, allowed=", ".join(FORMATS))
