"""Print what ML Metadata, which the Kubeflow UI asks, has of a run, as JSON: ``HOST:PORT RUN_ID``.

It runs under MLMD_PYTHON: ml-metadata's wheel cannot live beside ours (protobuf below 4).
"""

import json
import sys

from ml_metadata.metadata_store import metadata_store
from ml_metadata.proto import metadata_store_pb2

host, _, port = sys.argv[1].partition(":")
store = metadata_store.MetadataStore(metadata_store_pb2.MetadataStoreClientConfig(host=host, port=int(port)))
kinds = {kind.id: kind.name for kind in store.get_artifact_types()}
(run,) = [c for c in store.get_contexts_by_type("system.PipelineRun") if c.name == sys.argv[2]]
artifacts = [
    {
        "name": artifact.custom_properties["display_name"].string_value,
        "type": kinds[artifact.type_id],
        "uri": artifact.uri,
        "numbers": {k: v.double_value for k, v in artifact.custom_properties.items() if not v.string_value},
    }
    for artifact in store.get_artifacts_by_context(run.id)
]
tasks = {
    execution.custom_properties["task_name"].string_value: execution.custom_properties[
        "display_name"
    ].string_value
    for execution in store.get_executions_by_context(run.id)
}
print(json.dumps({"artifacts": artifacts, "tasks": tasks}))
