"""Brings a database's schema to what this code knows, once, whoever comes first."""

from __future__ import annotations

import logging
from pathlib import Path

from sqlalchemy import Connection, text

from steer_server.catalogue import migrations
from steer_server.errors import ConfigError

ADVISORY_LOCK = 0x57EE_2CA7
"""Ours among the advisory locks of a PostgreSQL database; any number will do that nobody else there takes."""

logger = logging.getLogger("steer_server.catalogue")


def migrate(connection: Connection) -> None:
    """Applies the steps that are missing, in the transaction that is open on `connection`, which the caller
    commits: a kill half way leaves the database as it was.

    On SQLite the transaction must have been begun IMMEDIATE: it then is the only one that writes. On
    PostgreSQL an advisory lock, held to the transaction's end, makes replicas that start at once wait for the
    first.

    Raises: ConfigError when the database has steps that this code does not know.
    """
    from alembic import command
    from alembic.config import Config
    from alembic.migration import MigrationContext
    from alembic.script import ScriptDirectory

    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": ADVISORY_LOCK})
    config = Config()
    # Percent signs would be read as interpolation.
    config.set_main_option("script_location", str(Path(migrations.__file__).parent).replace("%", "%%"))
    script = ScriptDirectory.from_config(config)
    present = set(MigrationContext.configure(connection).get_current_heads())
    known = {step.revision for step in script.walk_revisions()}
    if newer := present - known:
        raise ConfigError(
            f"the catalogue's database has schema {', '.join(sorted(newer))}, newer than this program, which "
            f"knows up to {', '.join(script.get_heads())}; start a newer one or name another database"
        )
    if present == set(script.get_heads()):
        return
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
    logger.info("catalogue database: schema is now %s", ", ".join(script.get_heads()))
