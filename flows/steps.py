"""Plain functions as steps of a flow."""

from collections.abc import Callable
from typing import ParamSpec, TypeVar, cast

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.context import FlowRunContext
from prefect.utilities.annotations import quote

from flows.run_log import attach

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


def step(
    name: str, function: Callable[Parameters, Result], *args: Parameters.args, **kwargs: Parameters.kwargs
) -> Result:
    """Runs a function as a Prefect task of that name.

    Its arguments are not looked into (they can be tables of a million rows), and its result is neither stored nor taken from a cache: what
    is done already is known from receipts in the workspace.
    Outside a flow run it is an ordinary call, so that a flow's function works without a Prefect server (`build_dataset.fn(...)`).
    """
    if FlowRunContext.get() is None:
        return function(*args, **kwargs)
    attach()
    run = cast("Callable[..., Result]", task(name=name, cache_policy=NO_CACHE, persist_result=False)(function))
    return run(*map(quote, args), **{key: quote(value) for key, value in kwargs.items()})
