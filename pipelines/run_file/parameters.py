"""Describe a pipeline's parameters for people and editors: groups, types, defaults; a JSON schema."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import docstring_parser
import msgspec
from msgspec import inspect as types

from deepcuts.components.core.nodepools import NodePools
from deepcuts.components.core.recipe import Recipe
from deepcuts.components.ingest import formats
from deepcuts.pipelines.run_file import checks
from deepcuts.pipelines.runner import pipeline_spec, spec_types

EXAMPLE = "the bundled example by default"
"""Mark of a parameter whose default is only for starts from the UI; here it must be given."""
FILLED = {"store_uri": "under --runs", "nodepools": "nodepools.yaml"}
"""Parameters that ``deepcuts run`` fills in if a pipeline has them."""
GROUPS = {
    "Model and data": """base_uri teacher_uri student_uri data_uri format columns config data_config
        max_tokens valid_share test_share max_bad_share fold_system""",
    "Training and evaluation": """recipe method initial learning_rate schedule warmup_ratio tokens_per_step
        seq_len order weight_decay max_grad_norm measures max_examples margin_nats release_name base_licence
        patience""",
    "Cuts": """
        select_method select_budget_tokens near_threshold word_threshold semantic_threshold
        embedder_uri engine ray curriculum_signal curriculum_pacing curriculum_phases quantize_candidates
        quantize_objective prune_method prune_amount heal_method temperature cross_entropy_weight
        hidden_weight layers space algorithm configurations brackets eta search_min_tokens
        search_max_tokens policy metric period window horizon lora_rank lora_alpha lora_dropout
        lora_targets lora_rslora lora_dora trainable_embeddings base_precision gradient_checkpointing
        compile frozen frozen_until_ratio length_phases
        trained_layers share_prefixes""",
    "Budget": """budget_usd deadline_hours pool spot budget_tokens budget_seconds nodepools usd_per_unit
        predictions retraining_usd price_ratio""",
}
"""Groups in the order of help; all other names are under ADVANCED."""
CONFIRMED = "Ask before run or submit starts a run that may cost more dollars (p90); 0 never asks."
ADVANCED = "Advanced"
IN_ORDER = (*GROUPS, ADVANCED)
WORDS = {
    "str": "text",
    "int": "integer",
    "float": "number",
    "bool": "true or false",
    "list": "list",
    "dict": "mapping",
}
SCHEMAS = {
    "str": "string",
    "int": "integer",
    "float": "number",
    "bool": "boolean",
    "list": "array",
    "dict": "object",
}


class Setting(NamedTuple):
    """One parameter of a pipeline, or one key of its recipe."""

    name: str
    """``base_uri``, or ``recipe.seed``."""
    kind: str
    """In words, with choices or bounds."""
    default: Any
    """None if it must be given."""
    required: bool
    meaning: str

    @property
    def group(self) -> str:
        """Return its heading in help."""
        key = self.name.rpartition(".")[2]
        return next((group for group, names in GROUPS.items() if key in names.split()), ADVANCED)


def parameters(pipeline: spec_types.Pipeline) -> Iterator[Setting]:
    """Yield the parameters of a pipeline in the order of GROUPS, then the keys of its recipe."""
    known = pipeline.root.input_definitions.parameters
    order = " ".join(GROUPS.values()).split()
    for name in sorted(known, key=lambda name: order.index(name) if name in order else len(order)):
        kind = pipeline_spec.KINDS[known[name].parameter_type].__name__
        bounded = checks.KINDS.get(name)
        words = in_words(types.type_info(bounded)) if bounded else WORDS[kind]
        if name == "format":
            words = " or ".join(["auto", *formats.FORMATS])
        default = None if required(known[name]) else pipeline_spec.whole(known[name].default_value)
        yield Setting(name, words, default, required(known[name]), one_line(known[name].description))
    if "recipe" in known:
        yield from recipe_keys()


def recipe_keys() -> Iterator[Setting]:
    """Yield the keys of the Recipe."""
    described, defaults = meanings(Recipe), msgspec.to_builtins(Recipe())
    for field in msgspec.structs.fields(Recipe):
        words = in_words(types.type_info(field.type))
        meaning = described.get(field.name, "")
        yield Setting(f"recipe.{field.name}", words, defaults[field.name], False, meaning)


def required(parameter: spec_types.ParameterDefinition) -> bool:
    """Tell whether a run must be given this parameter."""
    return not parameter.is_optional or EXAMPLE in one_line(parameter.description)


def meanings(kind: type) -> dict[str, str]:
    """Return the docstrings below the fields of a struct, by field."""
    fields = docstring_parser.parse_from_object(kind).params
    return {field.arg_name: one_line(field.description or "") for field in fields}


def one_line(text: str) -> str:
    """Return text without line breaks."""
    return " ".join(text.split())


def in_words(info: types.Type, mark: str = "") -> str:
    """Describe a type in words, with choices (quoted by ``mark``) or bounds."""
    match info:
        case types.BoolType():
            return "true or false"
        case types.IntType(gt=gt, ge=ge, lt=lt, le=le):
            return "integer" + _bounds(gt, ge, lt, le)
        case types.FloatType(gt=gt, ge=ge, lt=lt, le=le):
            return "number" + _bounds(gt, ge, lt, le)
        case types.LiteralType(values=values):
            return " or ".join(f"{mark}{value}{mark}" for value in values)
        case types.ListType(item_type=item):
            return f"list of {in_words(item, mark)}"
        case types.UnionType(types=arms):
            return " or ".join(in_words(each, mark) for each in arms if not isinstance(each, types.NoneType))
        case types.StructType():
            return "mapping"
        case _:
            return "text"


def _bounds(gt: float | None, ge: float | None, lt: float | None, le: float | None) -> str:
    marks = (("> ", gt), ("≥ ", ge), ("< ", lt), ("≤ ", le))
    shown = ", ".join(
        f"{mark}{bound if isinstance(bound, int) else f'{bound:g}'}"
        for mark, bound in marks
        if bound is not None
    )
    return f" {shown}" if shown else ""


def schema(pipeline: spec_types.Pipeline) -> dict[str, Any]:
    """Return the JSON schema (2020-12) of a run.yaml of this pipeline, for editors."""
    known = pipeline.root.input_definitions.parameters
    kinds = {name: checks.KINDS[name] for name in known if name in checks.KINDS}
    shapes, shared = msgspec.json.schema_components(
        [*kinds.values(), Recipe, NodePools], ref_template="#/$defs/{name}"
    )
    bounded = dict(zip(kinds, shapes, strict=False))
    described = meanings(Recipe)
    for name, property in shared["Recipe"]["properties"].items():
        property["description"] = described.get(name, "")
    properties: dict[str, Any] = {}
    for name, parameter in known.items():
        kind = SCHEMAS[pipeline_spec.KINDS[parameter.parameter_type].__name__]
        shape = dict(bounded.get(name, {"type": kind}))
        if name == "format":
            shape["enum"] = ["auto", *formats.FORMATS]
        if name == "recipe":
            shape = {"$ref": "#/$defs/Recipe"}
        if name == "nodepools":
            shape = {"anyOf": [{"type": "string"}, {"$ref": "#/$defs/NodePools"}]}
        properties[name] = shape | {"description": one_line(parameter.description)}
        if not required(parameter):
            properties[name]["default"] = pipeline_spec.whole(parameter.default_value)
    properties.get("nodepools", {}).pop("default", None)
    properties["confirm_above_usd"] = {"type": "number", "minimum": 0, "description": CONFIRMED}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"run.yaml of deepcuts run {pipeline.pipeline_info.name.replace('-', '_')}",
        "type": "object",
        "additionalProperties": False,
        "required": [name for name, parameter in known.items() if required(parameter) and name not in FILLED],
        "properties": properties,
        "$defs": shared,
    }
