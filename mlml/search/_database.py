"""A study in PostgreSQL, for searches whose machine may die: any other with the same database goes on with them.

Locks are the database's own: it drops them with the connection of their holder, however that ends.
"""

import hashlib
from types import TracebackType
from typing import TYPE_CHECKING, Any

from mlml.search._storage import StorageError, Store

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine

SCHEMES = ("postgresql://", "postgresql+psycopg://", "postgresql+psycopg2://")

# for the server to find out within half a minute that the machine at the other end is gone
_KEEPALIVE = {"tcp_keepalives_idle": 10, "tcp_keepalives_interval": 5, "tcp_keepalives_count": 3}


class DatabaseLock:
    """Exclusive lock of the database on a name; the interface is that of `FileLock`."""

    def __init__(self, engine: "Engine", name: str) -> None:
        self.name = name
        self._engine = engine
        self._key = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], signed=True)
        self._connection: Connection | None = None

    def acquire(self, wait: bool = True) -> bool:
        """Take the lock; without `wait`, return False at once when another holds it."""
        from sqlalchemy import text

        connection = self._engine.connect().execution_options(isolation_level="AUTOCOMMIT")
        try:
            for setting, value in _KEEPALIVE.items():
                connection.execute(text(f"SET {setting} = {value}"))
            question = "pg_advisory_lock(:key)" if wait else "pg_try_advisory_lock(:key)"
            answer = connection.execute(text(f"SELECT {question}"), {"key": self._key}).scalar()
        except BaseException:
            connection.invalidate()
            connection.close()
            raise
        if not wait and not answer:
            connection.close()
            return False
        self._connection = connection
        return True

    def release(self) -> None:
        """Give the lock back."""
        if self._connection is not None:
            self._connection.invalidate()  # closes it for good: back in a pool it would go on holding the lock
            self._connection.close()
            self._connection = None

    def __enter__(self) -> None:
        self.acquire()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.release()


def open_store(url: str, name: str) -> Store:
    """Open the database; its tables are made when absent.

    Args:
        url: of the database, such as postgresql://user:password@host/name.
        name: of the study.

    Raises:
        StorageError: it cannot be opened.
    """
    import sqlalchemy
    from optuna.storages import RDBStorage

    if not url.startswith(SCHEMES):
        raise StorageError(f"MLML_OPTUNA_STORAGE: must begin with {SCHEMES[0]}; got {url.partition(':')[0]!r}")
    options: dict[str, Any] = {"pool_pre_ping": True}
    try:
        engine = sqlalchemy.create_engine(url, **options)
        with DatabaseLock(engine, "mlml: tables of optuna"):  # made by several at once they come out broken
            storage = RDBStorage(url, engine_kwargs=options)
    except ModuleNotFoundError as error:
        raise StorageError(
            f"MLML_OPTUNA_STORAGE: the driver {error.name!r} is missing; install it by 'pip install mlml[scale]'"
        ) from None
    except sqlalchemy.exc.OperationalError as error:
        reason = " ".join(str(error.orig).split())
        raise StorageError(f"MLML_OPTUNA_STORAGE: the database does not answer: {reason}") from None
    return Store(storage, name, lambda part: DatabaseLock(engine, f"{name}/{part}"))
