"""Versions, acts and keys for people: tables in a terminal, JSON for scripts, one line for one act."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from steer_server.catalogue.anchors import vector_title

WIDTH_OF_FILES = 200
"""Columns where there is no terminal to fit."""
Row = Mapping[str, Any]

STATE_STYLES = {"active": "green", "quarantined": "red", "draining": "yellow"}


def print_json(body: Any) -> None:
    print(json.dumps(body, indent=2, ensure_ascii=False))


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]], nothing: str) -> None:
    """Args: nothing: printed in place of a table without rows."""
    if not rows:
        print(nothing)
        return
    console = Console()
    if not console.is_terminal:
        console = Console(width=WIDTH_OF_FILES)
    table = Table()
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(Text(_plain(cell), style=STATE_STYLES.get(cell, "")) for cell in row))
    console.print(table)


def print_fields(fields: Mapping[str, object]) -> None:
    """Name and value, a line each; empty ones are left out."""
    width = max(map(len, fields))
    for name, value in fields.items():
        if value not in ("", None):
            print(f"{name:{width}}  {_plain(str(value))}")


def print_versions(versions: Sequence[Row]) -> None:
    columns = ("name", "version", "state", "kind", "carries", "signature", "problem")
    rows = [
        [v["name"], *(v.get(c, "") for c in columns[1:4]), carries(v), v.get("signature", ""), problem(v)]
        for v in versions
    ]
    print_table(columns, rows, "There are no adapters.")


def print_version(version: Row) -> None:
    """One line after an act."""
    told = problem(version)
    print(_plain(f"{title(version)} is {version['state']}" + (f": {told}" if told else "")))


def print_moves(moves: Sequence[Row]) -> None:
    rows = [[at(m["at"]), m["action"], m["version"] or "none", m["actor"]] for m in moves]
    print_table(("at", "action", "active since", "by"), rows, "It never was active.")


def print_acts(acts: Sequence[Row]) -> None:
    columns = ("id", "at", "by", "from", "action", "adapter", "outcome", "detail")
    rows = [
        [
            str(act["id"]),
            at(act["at"]),
            act["actor"],
            act["remote_address"] or "",
            act["action"],
            "@".join(part for part in (act["name"], act["version"]) if part),
            act["outcome"],
            act["detail"],
        ]
        for act in acts
    ]
    print_table(columns, rows, "There are no acts.")


def print_keys(keys: Sequence[Row]) -> None:
    columns = ("id", "role", "begins", "label", "limits", "made", "last used", "state")
    rows = [
        [
            key["id"],
            key["role"],
            key["prefix"],
            key["label"],
            limits(key["limits"]),
            at(key["created_at"]),
            at(key["last_used_at"]) or "never",
            f"revoked {at(key['revoked_at'])}" if key["revoked_at"] else "valid",
        ]
        for key in keys
    ]
    print_table(columns, rows, "There are no keys.")


def fields_of(version: Row) -> dict[str, object]:
    """A version's particulars, for `print_fields`; from a server's answer or from a check on this machine."""
    pushed_by = version.get("pushed_by")
    return {
        "adapter": title(version),
        "state": version.get("state", ""),
        "problem": problem(version),
        "kind": version["kind"],
        "carries": carries(version),
        "anchors": "; ".join(vector_title(anchor["vector"]) for anchor in version.get("anchors") or ()),
        "rank": version.get("rank"),
        "base model": version["base_model"],
        "description": version["description"],
        "licence": version["licence"],
        "bytes": version["size_bytes"],
        "signature": version["signature"],
        "about it": version.get("signature_detail", ""),
        "names key": version.get("signed_by"),
        "digest": version["digest"],
        "pushed": f"{at(version['created_at'])} by {pushed_by}" if pushed_by else "",
    }


def title(version: Row) -> str:
    return f"{version['name']}@{version['version']}"


def carries(version: Row) -> str:
    """What requests name it by."""
    parts = []
    if version.get("culture"):
        parts.append(f"culture {version['culture']}")
    if version.get("axes"):
        parts.append(f"axes {', '.join(version['axes'])}")
    if version.get("head"):
        parts.append(f"head {version['head']}")
    if version.get("prompter"):
        parts.append(f"prompter {version['prompter']}")
    return "; ".join(parts)


def problem(version: Row) -> str:
    """Why it is quarantined, or not served by this server."""
    reason = ": ".join(part for part in (version.get("reason"), version.get("detail")) if part)
    return "; ".join(part for part in (reason, version.get("problem")) if part)


def limits(limits: Row) -> str:
    parts = [f"{kind} {', '.join(limits[kind])}" for kind in ("cultures", "axes") if limits[kind] is not None]
    if limits["requests_per_minute"] is not None:
        parts.append(f"{limits['requests_per_minute']} per minute")
    if limits["concurrency"] is not None:
        parts.append(f"{limits['concurrency']} at one time")
    if limits["expires_at"] is not None:
        parts.append(f"until {at(limits['expires_at'])}")
    return "; ".join(parts) or "none"


def at(time: str | None) -> str:
    """A time of the server's, to the second, in UTC."""
    return (time or "")[:19].replace("T", " ")


def _plain(text: str) -> str:
    """Without what a terminal would obey: some of it was written by strangers."""
    return "".join(character if character.isprintable() else "?" for character in text)
