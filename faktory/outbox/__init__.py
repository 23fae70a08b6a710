"""A transactional outbox: jobs are written into a table of the program's own database, in the
transaction that they belong to, and a relay pushes them after its commit.

Any driver of DB-API 2 for PostgreSQL, MySQL, MariaDB or SQLite will do; this imports none.
"""

from .outbox import Outbox

__all__ = ["Outbox"]
