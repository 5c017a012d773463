"""The KFP faces of the toy steps."""

from kfp import dsl

from deepcuts.components.core.container import container, parameter_files


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
def decide(
    train_pool: dsl.OutputPath(str),  # type: ignore[valid-type]
    train_selector: dsl.OutputPath(dict),  # type: ignore[valid-type]
    train_taints: dsl.OutputPath(list),  # type: ignore[valid-type]
    train_cpu: dsl.OutputPath(str),  # type: ignore[valid-type]
    train_memory: dsl.OutputPath(str),  # type: ignore[valid-type]
    train_device: dsl.OutputPath(str),  # type: ignore[valid-type]
    train_devices: dsl.OutputPath(str),  # type: ignore[valid-type]
    scoring_cpu: dsl.OutputPath(str),  # type: ignore[valid-type]
    scoring_memory: dsl.OutputPath(str),  # type: ignore[valid-type]
    receipt: dsl.Output[dsl.Metrics],
    place: dict,
):
    return container(
        "tests.pipelines.toys.decide.step",
        image="toys",
        receipt=receipt,
        place=place,
        placed=parameter_files(
            train_pool=train_pool,
            train_selector=train_selector,
            train_taints=train_taints,
            train_cpu=train_cpu,
            train_memory=train_memory,
            train_device=train_device,
            train_devices=train_devices,
            scoring_cpu=scoring_cpu,
            scoring_memory=scoring_memory,
        ),
    )
