"""Plays Katib's database manager in a pod: what a trial reports becomes a line of its log.

Runs inside the ops image, with nothing but what the image has.
"""

import json
from concurrent import futures

import grpc

from components.tune import suggestion_pb2 as pb


def report(
    request: pb.ReportObservationLogRequest, context: grpc.ServicerContext
) -> pb.ReportObservationLogReply:
    for log in request.observation_log.metric_logs:
        print(json.dumps({"trial": request.trial_name, log.metric.name: log.metric.value}), flush=True)
    return pb.ReportObservationLogReply()


if __name__ == "__main__":
    handler = grpc.unary_unary_rpc_method_handler(
        report,
        request_deserializer=pb.ReportObservationLogRequest.FromString,
        response_serializer=pb.ReportObservationLogReply.SerializeToString,
    )
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=1))
    methods = {"ReportObservationLog": handler}
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("api.v1.beta1.DBManager", methods),)
    )
    server.add_insecure_port("0.0.0.0:6789")
    server.start()
    server.wait_for_termination()
