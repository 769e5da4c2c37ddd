"""Where finished reports are kept until their retention ends: a folder, or a bucket of an S3-compatible server."""

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final

import obstore
from obstore.exceptions import BaseError
from obstore.store import LocalStore, ObjectStore, S3Store

from openride_analytics.config import Config

if TYPE_CHECKING:
    from obstore.store import S3Config  # not there at run time

_CONNECT: Final = timedelta(seconds=5)
# Of one request: a part of some MiB, not the whole file.
_REQUEST: Final = timedelta(seconds=60)
_RETRIES: Final = 3
_RETRY: Final = timedelta(seconds=60)
_CHUNK_BYTES: Final = 1 << 18


class FilesUnavailable(Exception):
    """The store of the files does not answer or refuses: the same call may succeed later. The message is for logs."""


class ReportFiles:
    """Files by their key (`2026/11/<id>/name.pdf`). Each is there as a whole or not at all.

    Every call is bounded in time and may be cancelled. Raises `FilesUnavailable`, and `ValueError` for a key with `..` in it.
    """

    def __init__(self, store: ObjectStore) -> None:
        self._store = store

    @classmethod
    def configured(cls, config: Config) -> "ReportFiles":
        """The bucket of the configuration, or else the folder `reports` of `[storage] data_dir`."""
        settings = config.reports
        if not settings.s3_bucket:
            folder = Path(config.storage.data_dir).absolute() / "reports"
            return cls(LocalStore(folder, mkdir=True))
        bucket: S3Config = {"region": settings.s3_region}
        if settings.s3_endpoint:
            bucket["endpoint"] = settings.s3_endpoint
        if settings.s3_access_key_id:
            bucket["access_key_id"] = settings.s3_access_key_id
            bucket["secret_access_key"] = settings.s3_secret_access_key
        store = S3Store(
            settings.s3_bucket,
            prefix=settings.s3_prefix or None,
            config=bucket,
            # Servers other than Amazon's seldom have a name for each bucket.
            virtual_hosted_style_request=not settings.s3_endpoint,
            client_options={
                "allow_http": settings.s3_endpoint.startswith("http://"),
                "connect_timeout": _CONNECT,
                "timeout": _REQUEST,
            },
            retry_config={"max_retries": _RETRIES, "retry_timeout": _RETRY},
        )
        return cls(store)

    async def put(self, key: str, path: Path) -> None:
        """Keeps a copy of the file; one of the same key is replaced."""
        try:
            await obstore.put_async(self._store, key, path)
        except (BaseError, OSError) as error:
            raise FilesUnavailable(f"{type(error).__name__}: {error}"[:500]) from error

    async def read(self, key: str) -> AsyncIterator[bytes]:
        """The file in pieces, or `FileNotFoundError` before the first."""
        try:
            found = await obstore.get_async(self._store, key)
        except FileNotFoundError:
            raise FileNotFoundError(key) from None
        except (BaseError, OSError) as error:
            raise FilesUnavailable(f"{type(error).__name__}: {error}"[:500]) from error

        async def pieces() -> AsyncIterator[bytes]:
            try:
                async for piece in found.stream(min_chunk_size=_CHUNK_BYTES):
                    yield bytes(piece)
            except (BaseError, OSError) as error:
                raise FilesUnavailable(f"{type(error).__name__}: {error}"[:500]) from error

        return pieces()

    async def delete(self, key: str) -> None:
        """Takes the file away; none of that key is no error."""
        try:
            await obstore.delete_async(self._store, key)
        except FileNotFoundError:
            return
        except (BaseError, OSError) as error:
            raise FilesUnavailable(f"{type(error).__name__}: {error}"[:500]) from error
