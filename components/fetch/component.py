from kfp import dsl

from deepcuts.components.core.container import container


@dsl.container_component
def fetch_model(model: dsl.Output[dsl.Model], receipt: dsl.Output[dsl.Metrics], uri: str):
    """Fetch a model for the pipeline, verified and without code.

    Args:
        model: Its folder: config.json, safetensors, tokenizer.
        receipt: What it took; the digest, and the names of pickles and code left behind.
        uri: s3://, minio:// (folder) or hf://org/name@40-digit-commit.
    """
    return container(
        "deepcuts.components.fetch.step",
        image="data",
        receipt=receipt,
        uri=uri,
        kind="model",
        artifact=model.path,
        config="",
    )


@dsl.container_component
def fetch_student(student: dsl.Output[dsl.Model], receipt: dsl.Output[dsl.Metrics], uri: str):
    """Fetch the model that a student is made from, verified and without code.

    Its output has its own name: a teacher of the same URI would otherwise be the same artifact once cached,
    and KFP accepts an artifact once per task.

    Args:
        student: Its folder: config.json, safetensors, tokenizer.
        receipt: What it took; the digest, and the names of pickles and code left behind.
        uri: s3://, minio:// (folder) or hf://org/name@40-digit-commit.
    """
    return container(
        "deepcuts.components.fetch.step",
        image="data",
        receipt=receipt,
        uri=uri,
        kind="model",
        artifact=student.path,
        config="",
    )


@dsl.container_component
def fetch_data(data: dsl.Output[dsl.Dataset], receipt: dsl.Output[dsl.Metrics], uri: str, config: str):
    """Fetch raw data for the pipeline.

    Args:
        data: The file, or the folder of data files.
        receipt: What it took; the digest, and the names of pickles and code left behind.
        uri: s3://, minio:// (object or folder) or hf://datasets/org/name@40-digit-commit.
        config: Which of several configurations; empty if there is one.
    """
    return container(
        "deepcuts.components.fetch.step",
        image="data",
        receipt=receipt,
        uri=uri,
        kind="dataset",
        artifact=data.path,
        config=config,
    )
