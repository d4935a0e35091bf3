"""Packages on their way from a request to the lifecycle. What is refused on the way is audited too."""

from __future__ import annotations

import os
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from pathlib import Path

from starlette.requests import Request

from steer_server.api.key_guard import caller_of
from steer_server.catalogue import acts
from steer_server.catalogue.package import StagedPackage, stage_archive, stage_folder
from steer_server.catalogue.records import VersionRecord
from steer_server.errors import CatalogueError, RequestError
from steer_server.state import Server

MAX_PATH_BYTES = 1024
MAX_PART_BYTES = 255
"""What file systems take; one more would look like a failure of our disk."""


async def push_archive(request: Request, *, activate: bool) -> VersionRecord:
    """The version in the request's body: a tar, tar.gz or zip.

    Raises: ClientDisconnect when the body did not come to its end, and as `Lifecycle.push`. Nothing is kept
        then.
    """
    server: Server = request.app.state.steer
    staged = stage_archive(request.stream(), server.catalogue.store.staging)
    return await _push(request, staged, activate=activate)


async def push_folder(
    request: Request, given: str, *, param: str, activate: bool, name: str | None = None
) -> VersionRecord:
    """The version in a folder below the adapters directory.

    Args:
        given: the folder's path, from there or absolute.
        param: how errors call it.
        name: must be the one in its manifest.

    Raises: RequestError when there is no such directory or name, and as `Lifecycle.push`.
    """
    server: Server = request.app.state.steer
    directory = server.catalogue.directory
    if directory is None:
        raise RequestError(
            "This server has no adapters directory; send the package itself.",
            param=param,
            code="no_adapters_directory",
        )
    staged = stage_folder(directory.path / given, directory.path, server.catalogue.store.staging)
    return await _push(request, staged, activate=activate, name=name)


def is_path(text: str) -> str:
    """The same text. Raises: ValueError when no file can have this path."""
    too_long = any(len(os.fsencode(part)) > MAX_PART_BYTES for part in Path(text).parts)
    if not text or "\0" in text or too_long or len(os.fsencode(text)) > MAX_PATH_BYTES:
        raise ValueError("is not the path of a folder")
    return text


async def _push(
    request: Request,
    staged: AbstractAsyncContextManager[StagedPackage],
    *,
    activate: bool,
    name: str | None = None,
) -> VersionRecord:
    server: Server = request.app.state.steer
    actor, lifecycle = caller_of(request).actor, server.catalogue.lifecycle
    async with AsyncExitStack() as until_pushed:
        try:
            package = await until_pushed.enter_async_context(staged)
        except CatalogueError as error:
            # From here on the lifecycle writes the audit.
            detail = f"{error.reason}: {error.detail}"
            await acts.record(lifecycle.database, actor, "push", "refused", name=error.adapter, detail=detail)
            raise
        if name is not None and name != package.manifest.name:
            raise RequestError(
                f"The folder's manifest says {package.manifest.name!r}, not {name!r}.",
                param="lora_name",
                code="name_mismatch",
            )
        return await lifecycle.push(package, actor, activate=activate)
