"""Which services there are, for tools such as grpcurl: grpc.reflection v1 and v1alpha, which differ in their name only.

Descriptors are those of our own .proto files, under the packages that clients know. Pure.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from google.protobuf import struct_pb2
from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pb2 import DescriptorProto, FileDescriptorProto

from cacheserver.compat.registry import registry_pb2, tools_pb2

_NOT_FOUND: Final = 5  # grpc.StatusCode.NOT_FOUND
_UNIMPLEMENTED: Final = 12
_HEALTH: Final = ("Health", "HealthCheckRequest", "HealthCheckResponse")


class _File:
    """One file that clients can ask for. names: what it declares, services and their methods included."""

    def __init__(self, descriptor: FileDescriptorProto) -> None:
        self.name = descriptor.name
        self.content = descriptor.SerializeToString()
        self.needs = tuple(descriptor.dependency)
        self.services = [f"{descriptor.package}.{service.name}" for service in descriptor.service]
        self.names = set(_names(descriptor))


def _names(descriptor: FileDescriptorProto) -> Iterator[str]:
    for service in descriptor.service:
        yield f"{descriptor.package}.{service.name}"
        yield from (f"{descriptor.package}.{service.name}.{method.name}" for method in service.method)
    for enum in descriptor.enum_type:
        yield f"{descriptor.package}.{enum.name}"
    waiting: list[tuple[str, DescriptorProto]] = [(descriptor.package, each) for each in descriptor.message_type]
    for prefix, each in waiting:
        name = f"{prefix}.{each.name}"
        yield name
        yield from (f"{name}.{field.name}" for field in each.field)
        yield from (f"{name}.{enum.name}" for enum in each.enum_type)
        waiting += [(name, nested) for nested in each.nested_type]


def _published(source: FileDescriptor, name: str, package: str, keep: Iterable[str] | None = None) -> _File:
    """A file of ours under the name and package that clients know, or those of its messages and services."""
    made = FileDescriptorProto()
    source.CopyToProto(made)
    if keep is not None:
        for message in [each for each in made.message_type if each.name not in keep]:
            made.message_type.remove(message)
        for service in [each for each in made.service if each.name not in keep]:
            made.service.remove(service)
    ours, theirs = f".{made.package}.", f".{package}."
    made.name, made.package = name, package
    for kept in made.message_type:
        for field in kept.field:
            field.type_name = field.type_name.replace(ours, theirs, 1)
    for service in made.service:
        for method in service.method:
            method.input_type = method.input_type.replace(ours, theirs, 1)
            method.output_type = method.output_type.replace(ours, theirs, 1)
    return _File(made)


@functools.cache
def _files() -> Mapping[str, _File]:
    tools = tools_pb2.DESCRIPTOR
    reflection = {*tools.services_by_name, *tools.message_types_by_name} - {*_HEALTH}
    struct = FileDescriptorProto()
    struct_pb2.DESCRIPTOR.CopyToProto(struct)
    found = (
        _published(registry_pb2.DESCRIPTOR, "registry.proto", "api"),
        _published(tools, "grpc/health/v1/health.proto", "grpc.health.v1", _HEALTH),
        *(
            _published(tools, f"grpc/reflection/{version}/reflection.proto", f"grpc.reflection.{version}", reflection)
            for version in ("v1", "v1alpha")
        ),
        _File(struct),
    )
    return {file.name: file for file in found}


def services() -> list[str]:
    """Full names, sorted."""
    return sorted(name for file in _files().values() for name in file.services)


def answer(request: tools_pb2.ServerReflectionRequest) -> tools_pb2.ServerReflectionResponse:
    """What is answered to one question of a stream."""
    response = tools_pb2.ServerReflectionResponse(valid_host=request.host, original_request=request)
    asked = request.WhichOneof("message_request")
    if asked == "list_services":
        response.list_services_response.service.extend(tools_pb2.ServiceResponse(name=name) for name in services())
    elif asked == "file_by_filename":
        _give(response, _files().get(request.file_by_filename), request.file_by_filename)
    elif asked == "file_containing_symbol":
        symbol = request.file_containing_symbol
        _give(response, next((file for file in _files().values() if symbol in file.names), None), symbol)
    elif asked == "all_extension_numbers_of_type" and any(
        request.all_extension_numbers_of_type in file.names for file in _files().values()
    ):
        response.all_extension_numbers_response.base_type_name = request.all_extension_numbers_of_type
    elif asked is None:
        response.error_response.error_code = _UNIMPLEMENTED
        response.error_response.error_message = "no question that is known here"
    else:
        _give(response, None, "an extension: there are none")
    return response


def _give(response: tools_pb2.ServerReflectionResponse, file: _File | None, asked: str) -> None:
    """The file and those that it imports, as tools expect it."""
    if file is None:
        response.error_response.error_code = _NOT_FOUND
        response.error_response.error_message = f"not found: {asked[:256]}"
        return
    needed = (_files()[name] for name in file.needs)
    response.file_descriptor_response.file_descriptor_proto.extend(each.content for each in (file, *needed))
