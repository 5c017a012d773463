"""The KFP faces of the toy steps."""

from kfp import dsl

from deepcuts.components.core.container import container, places


@dsl.container_component
def make(
    text: str,
    number: int,
    rate: float,
    flag: bool,
    words: list,
    config: dict,
    out: dsl.Output[dsl.Dataset],
    receipt: dsl.Output[dsl.Metrics],
    count: dsl.OutputPath(int),
):
    return container(
        "tests.pipelines.toys.make.step",
        image="toys",
        receipt=receipt,
        out=out.path,
        text=text,
        number=number,
        rate=rate,
        flag=flag,
        words=words,
        config=config,
    )


@dsl.container_component
def wait(
    source: dsl.Input[dsl.Dataset],
    seconds: float,
    checkpoint: str,
    out: dsl.Output[dsl.Dataset],
    receipt: dsl.Output[dsl.Metrics],
):
    return container(
        "tests.pipelines.toys.wait.step",
        image="toys",
        receipt=receipt,
        source=source.path,
        out=out.path,
        seconds=seconds,
        checkpoint=checkpoint,
    )


@dsl.container_component
def fail(way: str, until: int, out: dsl.Output[dsl.Dataset], receipt: dsl.Output[dsl.Metrics]):
    return container(
        "tests.pipelines.toys.fail.step", image="toys", receipt=receipt, out=out.path, way=way, until=until
    )


@dsl.container_component
def join(
    left: dsl.Input[dsl.Dataset],
    right: dsl.Input[dsl.Dataset],
    out: dsl.Output[dsl.Dataset],
    receipt: dsl.Output[dsl.Metrics],
):
    return container(
        "tests.pipelines.toys.join.step",
        image="toys",
        receipt=receipt,
        out=out.path,
        parts=f'{{"left":"{left.path}","right":"{right.path}"}}',
    )


@dsl.container_component
@places("train", "scoring")
def decide(receipt: dsl.Output[dsl.Metrics], placed: object, place: dict):
    return container(
        "tests.pipelines.toys.decide.step", image="toys", receipt=receipt, place=place, placed=placed
    )
