"""Plays Katib's database manager for tests without a cluster."""

from collections.abc import Callable
from concurrent import futures

import grpc

from deepcuts.components.tune import suggestion_pb2 as pb

Report = Callable[[pb.ReportObservationLogRequest], None]


def started(address: str, report: Report) -> tuple[grpc.Server, int]:
    """(a server that hands every report of a trial to ``report``, its port); port 0 takes a free one."""

    def respond(
        request: pb.ReportObservationLogRequest, context: grpc.ServicerContext
    ) -> pb.ReportObservationLogReply:
        report(request)
        return pb.ReportObservationLogReply()

    handler = grpc.unary_unary_rpc_method_handler(
        respond,
        request_deserializer=pb.ReportObservationLogRequest.FromString,
        response_serializer=pb.ReportObservationLogReply.SerializeToString,
    )
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=1))
    methods = {"ReportObservationLog": handler}
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("api.v1.beta1.DBManager", methods),)
    )
    port = server.add_insecure_port(address)
    server.start()
    return server, port
