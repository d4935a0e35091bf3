"""Versions, moves of names and acts as the JSON of administration."""

from __future__ import annotations

from typing import Any

from steer_server.catalogue.records import AliasMove, AuditEntry, VersionRecord
from steer_server.catalogue.states import State
from steer_server.state import Server


def describe_version(server: Server, version: VersionRecord) -> dict[str, Any]:
    """A version as this replica sees it."""
    replica, digest, manifest = server.catalogue.replica, version.digest, version.manifest
    draining = digest in replica.draining and version.state is State.RETIRED
    described = {
        "name": version.name,
        "version": version.version,
        "kind": version.kind,
        "state": State.DRAINING if draining else version.state,
        "digest": digest,
        "base_model": manifest["base_model"],
        "description": manifest.get("description", ""),
        "licence": manifest.get("licence", ""),
        "size_bytes": version.size_bytes,
        "signature": version.signature,
        "pushed_by": version.pushed_by,
        "created_at": version.created_at.isoformat(),
        "updated_at": version.updated_at.isoformat(),
    }
    if manifest.get("culture"):
        described["culture"] = manifest["culture"]["id"]
    if manifest.get("axes"):
        described["axes"] = [axis["id"] for axis in manifest["axes"]]
    if manifest.get("anchors"):
        described["anchors"] = manifest["anchors"]
    if manifest.get("head"):
        described["head"] = manifest["head"]
    if manifest.get("prompter"):
        described["prompter"] = manifest["prompter"]["id"]
    if version.reason:
        described |= {"reason": version.reason, "detail": version.detail}
    if problem := replica.problems.get(digest):
        described["problem"] = problem
    return described


def describe_move(move: AliasMove) -> dict[str, Any]:
    """One move of a name's alias."""
    return {
        "action": move.action,
        "version": move.version,
        "digest": move.digest,
        "previous": move.previous,
        "actor": move.actor,
        "at": move.at.isoformat(),
    }


def describe_act(entry: AuditEntry) -> dict[str, Any]:
    """One row of the audit."""
    return {**vars(entry), "at": entry.at.isoformat()}
