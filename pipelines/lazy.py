"""Trace pipelines on first use, so that importing one reads no node pools."""

import inspect
from collections.abc import Callable
from typing import Any

from kfp import dsl
from kfp.dsl.graph_component import GraphComponent

from deepcuts.pipelines import pools

TRACED = ("component_spec", "name", "description", "pipeline_func", "pipeline_config", "_component_inputs")
"""Attributes of a pipeline in kfp 2.17."""


class LazyPipeline(GraphComponent):  # type: ignore[misc]  # kfp is untyped
    """A pipeline made by ``dsl.pipeline`` once one of TRACED is accessed."""

    def __init__(self, function: Callable[..., None], name: str, description: str) -> None:
        self._function, self._given = function, {"name": name, "description": description}

    def __getattr__(self, name: str) -> Any:
        if name not in TRACED:
            raise AttributeError(name)
        self.__dict__.update(vars(dsl.pipeline(_priced(self._function), **self._given)))
        return self.__dict__[name]


def pipeline(*, name: str, description: str) -> Callable[[Callable[..., None]], LazyPipeline]:
    """Decorate a function like ``dsl.pipeline``, with ``pools.prices`` as the default of ``nodepools``."""
    return lambda function: LazyPipeline(function, name, description)


def _priced(function: Callable[..., None]) -> Callable[..., None]:
    """Give the parameter ``nodepools`` of ``function`` its default."""
    signature = inspect.signature(function)
    parameters = [
        one.replace(default=pools.prices()) if one.name == "nodepools" else one
        for one in signature.parameters.values()
    ]
    vars(function)["__signature__"] = signature.replace(parameters=parameters)
    return function
